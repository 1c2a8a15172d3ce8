"""In the sandbox: one Python that imports torch and the course once, and a fork of it for each problem or notebook.

`python COURSE/runner.py` reads a job in JSON from its standard input and writes lines of JSON to file descriptor 3:
["ready", {}] once torch is imported, ["1d", "imported"] once the exercises are, and for each task its name with `text`
(what it wrote), `code` (of its exit) and `reason` (the limit that it broke, or "").

No untrusted code runs in this process itself. Nothing of what is right is known here.
"""

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

RESULT = 3
IMPORTED = b'"imported"\n'
MOST_OF_A_LOG = 100_000
SWEEP = """
from helpers.settings import load_settings
from helpers.sweep import run_sweep
run_sweep(load_settings(), workers=1)
"""


def main() -> None:
    job = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # Whatever loses its parent becomes this process's child.
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    if job["kind"] == "code":
        run_problems(job)
    else:
        run_notebooks(job)


def run_problems(job: dict[str, Any]) -> None:
    import torch

    import helpers.checks.observe  # noqa: F401  All that the problems need, so that no fork has to import it.

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    tell("ready", {})
    exercises = job["exercises"].encode("utf-8", "surrogateescape")
    run_apart("file", lambda end: describe_file(exercises, end), job)  # Before anything of it has run.
    for problem, given in job["given"].items():
        run_apart(problem, lambda end, name=problem, given=given: observe(name, given, exercises, end), job)
        empty_folder()


def describe_file(exercises: bytes, end: int) -> None:
    """Write the hash by which a results file names the code that made it, and what looks like forgery in it."""
    from forgery import find_forgery

    from helpers.results import fingerprint_code

    path = Path("exercises.py").absolute()
    path.write_bytes(exercises)
    notes = find_forgery(exercises)
    try:
        code = fingerprint_code(path)
    except Exception:  # It cannot be parsed, and has no results that anybody could have made with it.
        code = ""
    write_all(end, json.dumps({"code": code, "notes": notes}).encode())


def observe(problem: str, given: dict[str, Any], exercises: bytes, end: int) -> None:
    """Import the exercises, run one problem's functions, and write what was seen."""
    from helpers.checks.observe import observe, quiet_workshop
    from helpers.recipe import FUNCTIONS

    path = Path("exercises.py").absolute()
    path.write_bytes(exercises)
    with quiet_workshop():
        stopped, solutions = None, ()
        try:
            module = import_exercises(path)
        except (Exception, SystemExit) as error:
            line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
            first = next(iter(str(error).splitlines()), "")[:300]
            stopped = f"exercises.py cannot be imported: {type(error).__name__}: {first}{line}"
        else:
            missing = [name for name in FUNCTIONS[problem] if not callable(getattr(module, name, None))]
            if missing:
                stopped = f"exercises.py has no function {', '.join(missing)}."
            solutions = tuple(getattr(module, name, None) for name in FUNCTIONS[problem])
        write_all(end, IMPORTED)
        seen = observe(problem, solutions, given) if stopped is None else {"records": [], "stopped": stopped}
        write_all(end, json.dumps(seen, allow_nan=False).encode())
    os._exit(0)  # Whatever untrusted code has left to do is not waited for.


def import_exercises(path: Path) -> ModuleType:
    """Import a submission's exercises as `helpers.exercises`, wherever they lie."""
    import helpers

    spec = importlib.util.spec_from_file_location("helpers.exercises", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["helpers.exercises"] = helpers.exercises = module
    spec.loader.exec_module(module)
    return module


def run_notebooks(job: dict[str, Any]) -> None:
    """Re-execute notebooks with nbval, one after the other, and tell what pytest said of each.

    The grid of notebook 3 is trained beforehand by a single process, which takes less memory than a kernel beside it.
    """
    tell("ready", {})
    Path("notebooks").mkdir()
    for name, notebook in job["notebooks"].items():
        Path("notebooks", name).write_text(notebook, encoding="utf-8")
    for name in job["notebooks"]:
        run_apart(name, lambda end, name=name: rerun(name, job, end), job)


def rerun(name: str, job: dict[str, Any], end: int) -> None:
    options = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={job['cell_seconds']}"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *options]
    with open("said", "w+b") as log:
        options = {"stdout": log, "stderr": log, "env": os.environ | {"COURSE_PROFILE": job["profiles"][name]}}
        if job["sweep_before"] == name:
            subprocess.run([sys.executable, "-c", SWEEP], check=False, **options)
            log.truncate(0)
        subprocess.run([*pytest, f"notebooks/{name}"], check=False, **options)
        log.seek(0)
        write_all(end, log.read(MOST_OF_A_LOG))


def run_apart(name: str, action: Callable[[int], None], job: dict[str, Any]) -> None:
    """Run `action(file descriptor for its text)` in a fork, kill all that it has started, and tell how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(reader)
            os.close(RESULT)
            seconds = int(job["cpu_seconds"]) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            action(writer)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    text, reason, late, parent = bytearray(), "", time.monotonic() + job["seconds"], os.getppid()
    while not reason:
        if select.select([reader], [], [], 0.05)[0]:
            data = os.read(reader, 65536)
            if not data:
                break
            if not text and data.startswith(IMPORTED):
                tell(name, "imported")
            text += data
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            kill_others()  # What it has left behind may hold the pipe open.
        reason = "time" if time.monotonic() > late else "result" if len(text) > job["result"] else ""
        if os.getppid() != parent:  # The grader is no more.
            kill_others()
            os._exit(1)
    kill_others()
    os.close(reader)
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, 0)
            code = os.waitstatus_to_exitcode(status) if ended == child else code
    tell(name, {"text": text[: job["result"]].decode("utf-8", "replace"), "code": code, "reason": reason})


def kill_others() -> None:
    """Kill all processes in the sandbox, or of its user, but this one."""
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)


def empty_folder() -> None:
    """Every problem begins in an empty folder, whatever the one before has done to it."""
    home = os.environ["HOME"]
    os.makedirs(home, exist_ok=True)
    os.chdir(home)
    for folder in (home, "/tmp", "/dev/shm") if os.getpid() == 1 else (home,):
        for command in (["chmod", "-R", "u+rwX", folder], ["find", folder, "-mindepth", "1", "-delete"]):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def write_all(end: int, data: bytes) -> None:
    while data:
        data = data[os.write(end, data) :]


def tell(name: str, said: Any) -> None:
    write_all(RESULT, json.dumps([name, said]).encode() + b"\n")


if __name__ == "__main__":
    main()
