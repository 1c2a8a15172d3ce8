"""Grade submissions in sandboxes, with copies of the course that have no solutions."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from helpers.recipe import COURSE, FUNCTIONS
from helpers.results import limit_memory
from helpers.settings import CourseError
from instructor import sandbox
from instructor.limits import MEBI, Limits, Outcome
from instructor.verdict import describe_rerun, judge_outcome, read_told
from instructor.worlds import list_python

PROJECT = Path(__file__).parents[1]
KNOW_SOLUTIONS = ("helpers", "instructor", "tests", ".git")
LEFT_OUT = ("exercises*.py", "__pycache__", "*.pyc", "*.part")
KNOWS_WHAT_IS_RIGHT = ("inputs.py", "judge.py")
NO_CHECKS = """CheckFailed = AssertionError
problem_1d = problem_2a = problem_2b = problem_2c = lambda *given, **options: None
"""
COPIES = ("exercises*.py*", "bitfit_assignment*", "__editable__*bitfit*", "bitfit-assignment*")
START = {"seconds": 120, "cpu_seconds": 30}  # What a sandbox may use to import torch, before its tasks.
NOTEBOOK_LIMITS = Limits(seconds=1800, cpu_seconds=3000)
# Freed memory is returned to the system at once: this takes a fifth more time, and a quarter less memory at the peak.
LEAN = {"MALLOC_TRIM_THRESHOLD_": str(4 * MEBI), "MALLOC_MMAP_THRESHOLD_": str(4 * MEBI), "MALLOC_ARENA_MAX": "1"}
LEAN |= {"GLIBC_TUNABLES": "", "THP_MEM_ALLOC_ENABLE": "0"}  # Otherwise training workers would set both.
# A corner of the grid is enough to see that these notebooks run.
WITH_GRID = ("03_full_vs_bitfit.ipynb", "04_test_and_report.ipynb")


class Workshop:
    """A temporary folder with all that grading needs; use it in a `with` statement, from any number of threads.

    `degree` is the degree of isolation (see `sandbox`), and `isolation` says what it enforces here. Everybody
    can enter the folder but nobody can list it, so code finds only files whose names it is told. Raises CourseError if
    untrusted code cannot be isolated.
    """

    def __init__(self, degree: str = "auto", private: tuple[Path, ...] = ()):
        """`private` are further paths, besides solutions, that submitted code should not read."""
        if not sys.platform.startswith("linux"):
            raise CourseError("Grading runs untrusted code, which needs Linux: a container or Colab is enough.")
        try:
            self.degree, self.isolation = sandbox.find_degree(degree)
        except OSError as error:
            raise CourseError(f"Untrusted code cannot be isolated here, so nothing is graded. {error}.") from error
        self.hidden = find_copies()
        secret = [*(path for path in map(Path, self.hidden) if "bitfit" not in path.name), *private]
        if self.degree == "user" and (found := [str(path) for path in secret if can_everybody_read(path)]):
            which = f"chmod go= (or uninstall) {' '.join(found[:5])}"
            self.isolation.append(f"SUBMITTED CODE CAN READ SOLUTIONS OR OTHERS' WORK. To prevent that: {which}")
        self.hidden += (str(PROJECT), *map(os.path.realpath, private))
        self.memory = int(0.9 * limit_memory(psutil.virtual_memory().total))
        self.temporary = tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True)
        self.folder = Path(self.temporary.name)
        self.folder.chmod(0o711)
        self.preparer: subprocess.Popen | None = None
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.alone = False  # Whether there is only one submission: then memory is returned early.

    def __enter__(self) -> "Workshop":
        self.private = self.folder / "private"
        self.private.mkdir(0o700)
        # Code that knows the expected results is absent where points are decided; notebooks run checks without points.
        self.course, self.blind = self.make_folder(), self.make_folder()
        copy_course(self.course)
        copy_course(self.blind, *KNOWS_WHAT_IS_RIGHT)
        # A student's file may import checks, and even run them: here they do nothing.
        (self.blind / "helpers" / "checks" / "__init__.py").write_text(NO_CHECKS)
        return self

    def stop(self) -> None:
        """End all that is running, and run nothing more."""
        self.stopped.set()
        self.end_preparer()

    def __exit__(self, *error: Any) -> None:
        self.stop()
        self.temporary.cleanup()

    def check_going(self) -> None:
        if self.stopped.is_set():
            raise CourseError("Grading was stopped.")

    def end_preparer(self) -> None:
        """End the process that prepares inputs, to free its memory; it is started again when needed."""
        preparer, self.preparer = self.preparer, None
        if preparer is not None:
            with preparer:
                preparer.kill()

    def make_folder(self) -> Path:
        """A new folder that sandboxes can enter if they know its name."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o755)
        return folder

    def prepare(self, seed: int, folder: Path) -> dict[str, Any]:
        """Fresh inputs and expected results (see `prepare.prepare`), with the models in the folder."""
        with self.lock:
            self.check_going()
            if self.preparer is None:
                self.preparer = subprocess.Popen(
                    [sys.executable, "-m", "instructor.prepare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True, cwd=self.private, start_new_session=True,
                    env=sandbox.clean_environment(str(self.private), PYTHONPATH=str(PROJECT)),
                )  # fmt: skip
            process = self.preparer
            try:
                print(json.dumps({"seed": seed, "folder": str(folder)}), file=process.stdin, flush=True)
                prepared = json.loads(process.stdout.readline())
            except (BrokenPipeError, ValueError) as error:
                self.end_preparer()
                self.check_going()
                raise CourseError(
                    "The inputs of the checks cannot be created here. To find out why: `python -m helpers doctor`."
                ) from error
            if self.alone:
                self.end_preparer()
        open_to_all(folder)
        return prepared

    def run(
        self, job: dict[str, Any], limits: Limits, readable: tuple[Path, ...], **environment: str
    ) -> tuple[Outcome, dict[str, Outcome]]:
        """Run one of `runner`'s jobs; returns how it ended, and how each of its tasks ended, by name.

        If "ready" is not among the names, the sandbox has failed before any untrusted code ran.
        """
        self.check_going()
        command, paths = [sys.executable, str(readable[0] / "runner.py")], tuple(map(str, readable))
        try:
            going = (json.dumps(job), self.degree, self.hidden, self.stopped)
            outcome = sandbox.run(command, paths, limits, *going, **environment)
        except OSError as error:
            outcome = Outcome(reason="sandbox", output=str(error))
        self.check_going()  # A stopped run has no outcome.
        told, outcome.result = read_told(outcome.result), ""
        if "ready" not in told:
            outcome.output = f"{outcome.describe(limits)} {outcome.output.strip()[-300:]}"
            outcome.reason = "sandbox"
        return outcome, told

    def grade_code(self, exercises: bytes, limits: Limits = Limits()) -> dict[str, Any]:  # noqa: B008
        """Run a submission's functions on fresh inputs, within limits for each problem, and judge their results here.

        Returns `said` and `passed` by problem, `notes` on what looks like forgery, `broken`, the problems that broke
        a limit, `cpu_seconds`, `peak_memory` in bytes, and `graded`, which is False if the sandbox itself failed.
        One Python process runs all problems; if a problem ends it, another process runs the remaining ones.
        """
        limits = replace(limits, memory=min(limits.memory, self.memory))
        said, passed, notes, broken = {}, dict.fromkeys(FUNCTIONS, False), [], []
        used, left, models = [], list(FUNCTIONS), self.make_folder()
        job = {"exercises": exercises.decode("utf-8", "surrogateescape"), "limits": asdict(limits)}
        try:
            inputs = self.prepare(secrets.randbits(48), models)
            while left:
                job["given"] = {problem: inputs["given"][problem] for problem in left}
                seconds = START["seconds"] + (len(left) + 1) * (limits.seconds + 5)
                cpu_seconds = START["cpu_seconds"] + limits.cpu_seconds
                whole = replace(limits, seconds=seconds, cpu_seconds=cpu_seconds, result=6 * limits.result)
                outcome, told = self.run(job, whole, (self.blind, models))
                used.append(outcome)
                if "ready" not in told:
                    said |= {problem: f"Problem {problem}: {outcome.describe(whole)}" for problem in left}
                    break
                if "notes" in told:
                    notes = json.loads(told["notes"].result or '["exercises.py could not be searched for forgery"]')
                if (imported := told.get("import", outcome)).reason:
                    # It never reached the first function, and would not in another run.
                    why = f"Not run: exercises.py could not be imported; {imported.describe(limits)}"
                    said |= dict.fromkeys(left, why)
                    broken += left
                    break
                while left:
                    problem = left.pop(0)
                    ended = told.get(problem, outcome)
                    said[problem], passed[problem] = judge_outcome(problem, ended, inputs["expected"][problem], limits)
                    broken += [problem] if ended.reason else []
                    if problem not in told:
                        break  # It has ended the sandbox.
        finally:
            shutil.rmtree(models, ignore_errors=True)
        found = {"said": said, "passed": passed, "notes": notes, "broken": broken, "graded": "ready" in told}
        return found | add_up(used)

    def run_notebooks(self, exercises: bytes, notebooks: dict[str, str]) -> dict[str, Any]:
        """Re-execute notebooks (file names and their JSON) with a submission's exercises, for information: no points.

        Returns `lines` (what nbval said about each), `cpu_seconds`, `peak_memory` in bytes, and `graded`.
        """
        with self.lock:
            self.end_preparer()
        limits = replace(NOTEBOOK_LIMITS, memory=min(NOTEBOOK_LIMITS.memory, self.memory))
        profiles = {name: "grade" if name in WITH_GRID else "quick" for name in notebooks}
        job = {"notebooks": notebooks, "profiles": profiles, "sweep_before": WITH_GRID[0]}
        job |= {"exercises": exercises.decode("utf-8", "surrogateescape"), "cell_seconds": 300}
        outcome, told = self.run(job, limits, (self.course,), **LEAN)
        lines = [describe_rerun(name, told.get(name, outcome), limits) for name in notebooks]
        return {"lines": lines, "graded": "ready" in told} | add_up([outcome])


def copy_course(folder: Path, *left_out: str) -> None:
    """Copy what a sandbox needs of the course, without solutions and the files in `left_out`.

    Other files in `helpers/` may be another's solution, or a copy of the course's; `release` names them.
    """
    unwanted, known = shutil.ignore_patterns(*LEFT_OUT, *left_out), {f"{name}.py" for name in COURSE} | {*COURSE}

    def ignore(at: str, names: list[str]) -> set[str]:
        others = {*names} - known - {"__init__.py"} if Path(at) == PROJECT / "helpers" else set()
        return others | unwanted(at, names)

    shutil.copytree(PROJECT / "helpers", folder / "helpers", ignore=ignore)
    for name in ("runner.py", "forgery.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    open_to_all(folder)


def add_up(used: list[Outcome]) -> dict[str, Any]:
    return {
        "cpu_seconds": round(sum(outcome.cpu_seconds for outcome in used), 1),
        "peak_memory": max(outcome.peak_memory for outcome in used),
    }


@cache
def find_copies() -> tuple[str, ...]:
    """All places with solutions: this project, and copies of it that are installed, or in Python's own folders."""
    roots = [path for path in ("/usr", *list_python()) if os.path.isdir(path)]
    words = [word for name in COPIES for word in ("-o", "-name", name)][1:]
    done = subprocess.run(["find", *roots, *words], capture_output=True, check=False)
    found = {Path(os.fsdecode(line)) for line in done.stdout.splitlines()}
    found |= {path.parent for path in found if (path.parent / "checks").is_dir()}
    found |= {PROJECT / name for name in KNOW_SOLUTIONS}
    return tuple(str(path) for path in sorted(found) if found.isdisjoint(path.parents))


def can_everybody_read(path: Path) -> bool:
    """Whether other users can read a file or enter a folder: it and every folder above it must allow that."""
    try:
        above = all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
        return above and bool(path.stat().st_mode & (0o001 if path.is_dir() else 0o004))
    except OSError:
        return False


def open_to_all(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
