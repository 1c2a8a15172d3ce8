"""In the sandbox: one Python process that imports torch and the course once, and forks for each problem or notebook.

`python COURSE/runner.py` reads a job in JSON from its standard input and writes lines of JSON to file descriptor 3:
"ready" once torch is imported, and for each task its name, with `text` (what it wrote), `code` (its exit code) and
`reason` (the limit that it broke, or ""). The tasks are "notes" and "import", then the problems; or the notebooks.

No untrusted code runs in this process itself. The expected results are not known here.
"""

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

RESULT = 3
PARENT = os.getppid()
MOST_OF_A_LOG = 100_000
DUMPABLE = 4  # From the kernel's sys/prctl.h.
KEYCTL = {"x86_64": 250, "aarch64": 219}  # The number of the system call, by machine.


def main() -> None:
    job = json.load(sys.stdin)
    exercises = job["exercises"].encode("utf-8", "surrogateescape")
    prctl(36, 1)  # Orphaned processes become this process's children.
    prctl(DUMPABLE, 0)  # No submission can trace this process, or open its memory or files.
    if number := KEYCTL.get(os.uname().machine):
        ctypes.CDLL(None).syscall(number, 1, None)  # A keyring of its own: the grader's would keep keys.
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    if "given" in job:
        run_problems(job, exercises)
    else:
        run_notebooks(job, exercises)


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def run_problems(job: dict[str, Any], exercises: bytes) -> None:
    import torch
    from forgery import find_forgery

    import helpers.checks.observe  # noqa: F401  All that the problems need, so that the forks need not import it.

    torch.set_num_threads(1)
    keep_what_counts()
    gc.collect()
    gc.freeze()
    tell("ready")
    run_apart("notes", lambda end: write_all(end, json.dumps(find_forgery(exercises)).encode()), job["limits"])
    if run_apart("import", lambda end: import_exercises(exercises), job["limits"]):
        return  # It would break the same limit again for each problem.
    for problem, given in job["given"].items():
        empty_folder()
        run_apart(problem, partial(observe, problem, given, exercises), job["limits"])


def keep_what_counts() -> None:
    """Reset TrainingArguments except for what is judged: this machine may reject, say, a precision or a folder."""
    from transformers import TrainingArguments

    from helpers.recipe import CHECKED, QUIET

    check = TrainingArguments.__post_init__
    own = {each.name: each.default for each in fields(TrainingArguments) if each.name not in (*CHECKED, *QUIET)}
    own = {name: default for name, default in own.items() if default is not MISSING}
    own |= {"report_to": "none", "output_dir": "trainer"}

    def set_and_check(arguments: TrainingArguments) -> None:
        vars(arguments).update(own)
        check(arguments)

    TrainingArguments.__post_init__ = set_and_check


def import_exercises(exercises: bytes) -> ModuleType:
    """Import a submission's exercises as `helpers.exercises`."""
    import helpers

    path = Path("exercises.py").absolute()
    path.write_bytes(exercises)
    spec = importlib.util.spec_from_file_location("helpers.exercises", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["helpers.exercises"] = helpers.exercises = module
    spec.loader.exec_module(module)
    return module


def observe(problem: str, given: dict[str, Any], exercises: bytes, end: int) -> None:
    """Import the exercises, run one problem's functions, and write what was seen."""
    from helpers.checks.observe import observe, quiet_workshop
    from helpers.recipe import FUNCTIONS

    try:  # Before anything is quiet and in a folder of its own, as in a notebook.
        module = import_exercises(exercises)
    except (Exception, SystemExit) as error:
        line = f" (line {error.lineno})" if getattr(error, "lineno", None) else ""
        first = next(iter(str(error).splitlines()), "")[:300]
        stopped = f"exercises.py cannot be imported: {type(error).__name__}: {first}{line}"
    else:
        solutions = tuple(getattr(module, name, None) for name in FUNCTIONS[problem])
        missing = [name for name in FUNCTIONS[problem] if not callable(getattr(module, name, None))]
        stopped = missing and f"exercises.py has no function {', '.join(missing)}."
    with quiet_workshop():
        seen = {"records": [], "stopped": stopped} if stopped else observe(problem, solutions, given)
        write_all(end, json.dumps(seen, allow_nan=False).encode())
        os._exit(0)  # Do not wait for anything that untrusted code has left to do.


def run_notebooks(job: dict[str, Any], exercises: bytes) -> None:
    """Re-execute notebooks with nbval, one after another, and report what pytest said about each.

    A single process trains the grid of notebook 3 first, which takes less memory than training next to a kernel.
    """
    tell("ready")
    Path("notebooks").mkdir()
    Path("helpers").mkdir()  # In the code's own folder, which no other student's code can read.
    for part in Path(__file__).with_name("helpers").iterdir():
        Path("helpers", part.name).symlink_to(part)
    Path("helpers", "exercises.py").write_bytes(exercises)
    for name, notebook in job["notebooks"].items():
        Path("notebooks", name).write_text(notebook, encoding="utf-8")
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    for name in job["notebooks"]:
        environment = os.environ | {"COURSE_PROFILE": job["profiles"][name], "PYTHONPATH": os.getcwd()}
        # No other plugin that is installed here: they take seconds to load, and pytest-randomly shuffles the cells.
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "nbval.plugin"}
        if name == job["sweep_before"]:
            subprocess.run([*python, "helpers", "sweep", "--workers", "1"], capture_output=True, env=environment)
        command = [*pytest, f"--nbval-cell-timeout={job['cell_seconds']}", f"notebooks/{name}"]
        with open("said", "w+b") as log:  # Unlike a pipe, it ends even if a process keeps it open.
            done = subprocess.run(command, stdout=log, stderr=log, env=environment)
            kill_others()
            log.seek(max(0, log.seek(0, os.SEEK_END) - MOST_OF_A_LOG))  # The summary is at its end.
            tell(name, log.read(MOST_OF_A_LOG).decode("utf-8", "replace"), done.returncode)


def run_apart(name: str, action: Callable[[int], Any], limits: dict[str, float]) -> str:
    """Run `action(file descriptor for its text)` in a fork, kill all that it has started, and report how it ended.

    Returns the limit that it broke, if any.
    """
    with open(os.memfd_create(name), "r+b") as said:
        child, reason, late = os.fork(), "", time.monotonic() + limits["seconds"]
        if child == 0:
            try:
                os.setsid()
                os.close(RESULT)
                prctl(DUMPABLE, 1)
                seconds = int(limits["cpu_seconds"]) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
                action(said.fileno())
                os._exit(0)
            finally:
                os._exit(1)
        while not reason and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.02)
            reason = "time" if time.monotonic() > late else ""
            if os.getppid() != PARENT:  # The grader has ended.
                kill_others()
                os._exit(1)
        kill_others()
        code = None
        with contextlib.suppress(ChildProcessError):
            while True:
                ended, status = os.waitpid(-1, 0)
                code = os.waitstatus_to_exitcode(status) if ended == child else code
        said.seek(0)
        text = said.read(limits["result"] + 1)
    reason = "cpu" if code == -signal.SIGXCPU else "result" if len(text) > limits["result"] else reason
    tell(name, text[: limits["result"]].decode("utf-8", "replace"), code, reason)
    return reason


def kill_others() -> None:
    """Kill all processes in the sandbox, or of its user, except this one."""
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)


def empty_folder() -> None:
    """Give every problem empty folders, whatever the one before has done to them."""
    home = os.environ["HOME"]
    for folder in (home, "/tmp", "/dev/shm") if os.getpid() == 1 else (home,):
        for command in (["chmod", "-R", "u+rwX", folder], ["find", folder, "-mindepth", "1", "-delete"]):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def write_all(end: int, data: bytes) -> None:
    while data:
        data = data[os.write(end, data) :]


def tell(name: str, text: str = "", code: int = 0, reason: str = "") -> None:
    write_all(RESULT, json.dumps([name, {"text": text, "code": code, "reason": reason}]).encode() + b"\n")


if __name__ == "__main__":
    main()
