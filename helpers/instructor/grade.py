"""Grade submissions: run their code in sandboxes, judge what comes back, and write a sheet for each student.

A verdict is computed here, from data that the student's code returned on inputs made for this one submission; nothing
that the code does to its own process can change it. Written answers are collected for reading, their points open.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.checks import CheckFailed, judge
from helpers.instructor import sandbox
from helpers.instructor.rebuild import Rebuilt, rebuild
from helpers.instructor.sandbox import MEBI, Limits, Outcome
from helpers.instructor.unpack import NOTEBOOKS, Submission, find_submissions, read_submission
from helpers.instructor.workshop import PACKAGE, Workshop, open_to_all
from helpers.settings import CourseError, project_folder, write_atomically

AUTOMATIC = {"1d": 10, "2a": 10, "2b": 20, "2c": 20}
WRITTEN = {"1b": 10, "1c": 10, "3a": 10, "3b": 10}
NOTEBOOK_LIMITS = Limits(seconds=1800, cpu_seconds=1500, processes=64)
# A corner of the grid is enough to see that a notebook runs; `full_rerun` trains all of it.
# Memory goes back to the system as soon as it is free: a fifth more time, a quarter less memory at the peak.
LEAN = {"MALLOC_TRIM_THRESHOLD_": str(4 * MEBI), "MALLOC_MMAP_THRESHOLD_": str(4 * MEBI), "MALLOC_ARENA_MAX": "1"}
WITH_GRID = ("03_full_vs_bitfit.ipynb", "04_test_and_report.ipynb")


class Grader:
    """Grades one submission after the other, or several at a time, in one workshop."""

    def __init__(
        self,
        workshop: Workshop,
        course: Path,
        notebooks: str = "corner",
        limits: Limits | None = None,
        alone: bool = False,
    ):
        """`notebooks` is `corner`, `full` or `none`; `alone` gives memory back between the parts of a submission."""
        self.workshop, self.notebooks, self.alone = workshop, notebooks, alone
        memory = int(0.9 * find_memory())
        self.limits = limits or Limits()
        self.limits = replace(self.limits, memory=min(self.limits.memory, memory))
        seconds = 3600 if notebooks == "full" else NOTEBOOK_LIMITS.seconds
        self.notebook_limits = replace(NOTEBOOK_LIMITS, seconds=seconds, memory=min(NOTEBOOK_LIMITS.memory, memory))
        self.course_notebooks = {name: _load_notebook(course / name) for name in NOTEBOOKS if (course / name).exists()}
        if not self.course_notebooks:
            raise CourseError(f"There are no course notebooks in {course}/notebooks. Grade in the assignment's folder.")

    def grade(self, submission: Submission) -> dict[str, Any]:
        """Everything that is known about a submission, as JSON data (see `write_sheet`)."""
        started = time.monotonic()
        rebuilt = {name: rebuild(course, submission.files.get(name)) for name, course in self.course_notebooks.items()}
        record = {
            "student": submission.student,
            "refused": submission.refused,
            "graded": True,
            "points": dict.fromkeys(AUTOMATIC, 0),
            "said": dict.fromkeys(AUTOMATIC, submission.refused and f"Not graded: {submission.refused}"),
            "notes": submission.notes
            + [f"{Path(n).name} {note}" for n, part in rebuilt.items() for note in part.notes],
            "answers": {problem: text for part in rebuilt.values() for problem, text in part.answers.items()},
            "unplaced": [text for part in rebuilt.values() for text in part.unplaced],
            "notebooks": [],
            "results": [],
            "isolation": sandbox.describe_degree(self.workshop.degree),
            "why_not_better": self.workshop.reasons,
            "limits": str(self.limits),
            "cpu_seconds": 0.0,
            "peak_memory": 0,
        }
        if not submission.refused:
            self._grade_code(submission, record)
            if self.alone:
                self.workshop.close_server(with_torch=True)
            if submission.exercises is not None and self.notebooks != "none":
                self._rerun(submission, rebuilt, record)
            record["results"] = self._describe_results(submission)
        else:
            record["notes"] = submission.notes
        if not record["graded"]:
            record["notes"].insert(0, "THE GRADER'S SANDBOX FAILED: run the same command again")
        record["automatic"] = sum(record["points"].values())
        record["seconds"] = round(time.monotonic() - started, 1)
        return record

    def _grade_code(self, submission: Submission, record: dict[str, Any]) -> None:
        if submission.exercises is None:
            record["said"] = dict.fromkeys(AUTOMATIC, "Not graded: there is no exercises.py in the submission.")
            return
        given, expected, models = self.workshop.prepare(secrets.randbits(48))
        stage = self.workshop.make_folder()
        path = stage / "exercises.py"
        path.write_bytes(submission.exercises)
        open_to_all(stage)
        try:
            never_imported = None
            for problem, points in AUTOMATIC.items():
                if never_imported:
                    record["said"][problem] = never_imported
                    continue
                details = {"problem": problem, "given": given[problem], "exercises": str(path)}
                outcome = self.workshop.run("observe", self.limits, (models, stage), {}, **details)
                verdict, passed = judge_outcome(problem, outcome, expected[problem], self.limits)
                record["said"][problem], record["points"][problem] = verdict, points if passed else 0
                _add_usage(record, outcome)
                record["graded"] &= outcome.reason != "sandbox"
                if outcome.reason in ("time", "memory") and not outcome.result:
                    # It never came as far as the first function, and would not for the next problem.
                    never_imported = f"Not run: exercises.py could not be imported; {outcome.describe(self.limits)}"
        finally:
            sandbox.remove_tree(str(stage))
            sandbox.remove_tree(str(models))

    def _rerun(self, submission: Submission, rebuilt: dict[str, Rebuilt], record: dict[str, Any]) -> None:
        stage = self.workshop.make_folder()
        try:
            shutil.copytree(self.workshop.course / "helpers", stage / "helpers")
            (stage / "helpers" / "exercises.py").write_bytes(submission.exercises)
            (stage / "notebooks").mkdir()
            for name, part in rebuilt.items():
                (stage / name).write_text(json.dumps(part.notebook), encoding="utf-8")
            open_to_all(stage)
            names = [Path(name).name for name in rebuilt]
            full = self.notebooks == "full"
            job = {
                "notebooks": str(stage / "notebooks"),
                "profiles": {name: "grade" if name in WITH_GRID and not full else "quick" for name in names},
                "sweep_before": WITH_GRID[0],
                "cell_seconds": 1800 if full else 300,
            }
            environment = {"PYTHONPATH": str(stage), **LEAN}
            outcome = self.workshop.run("notebooks", self.notebook_limits, (stage,), environment, **job)
            _add_usage(record, outcome)
            record["notebooks"] = describe_rerun(names, outcome, self.notebook_limits)
        finally:
            sandbox.remove_tree(str(stage))

    def _describe_results(self, submission: Submission) -> list[str]:
        code = ""
        if submission.exercises is not None and "results.json" in submission.files:
            stage = self.workshop.make_folder()
            path = stage / "exercises.py"
            path.write_bytes(submission.exercises)
            open_to_all(stage)
            limits = replace(self.limits, seconds=60, result=1000)
            code = self.workshop.run("fingerprint", limits, (stage,), {}, exercises=str(path)).result
            sandbox.remove_tree(str(stage))
        return describe_results(submission.files.get("results.json"), code)


def judge_outcome(problem: str, outcome: Outcome, expected: dict[str, Any], limits: Limits) -> tuple[str, bool]:
    """The verdict on one problem, and whether it is right; whatever the student's code has sent, it never raises."""
    if outcome.reason:
        return f"Problem {problem}: {outcome.describe(limits)}", False
    imported, _, text = outcome.result.partition("\n")
    if imported != '"imported"' or not text:
        return f"Problem {problem}: nothing came back; {outcome.describe(limits)}", False
    try:
        return judge(problem, read_strictly(text), expected), True
    except CheckFailed as failure:
        return clip(str(failure), 1000), False
    except (Exception, RecursionError, MemoryError):
        return f"Problem {problem}: what came back is not what this problem's functions give.", False


def read_strictly(text: str) -> Any:
    """Parse JSON, without the numbers that are none."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    def parse_finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            refuse(digits)
        return number

    return json.loads(text, parse_constant=refuse, parse_float=parse_finite)


def describe_rerun(names: list[str], outcome: Outcome, limits: Limits) -> list[str]:
    """What nbval said of each notebook: for reading only, since the code could have said it itself."""
    try:
        said = read_strictly(outcome.result)
        lines = []
        for name in names:
            found = dict.fromkeys(("PASSED", "FAILED", "ERROR"), ())
            for line in said[name]["text"].splitlines():
                state, _, rest = line.partition(" ")
                if state in found and "Cell " in rest:
                    found[state] += (int(rest.split("Cell ")[1].split()[0]),)
            broken = sorted({*found["FAILED"], *found["ERROR"]})
            total = len({*found["PASSED"], *broken})
            lines.append(
                f"{name}: {total - len(broken)} of {total} code cells ran"
                + (f"; stopped with an error: {', '.join(map(str, broken[:12]))}" if broken else "")
                if total
                else f"{name}: did not run. {clip(said[name]['text'].strip()[-300:], 300)}"
            )
        return lines
    except Exception:
        return [f"The notebooks did not run to their end: {outcome.describe(limits)}"]


def describe_results(data: bytes | None, code: str) -> list[str]:
    """Whether a results file looks like a run of the student's code; it earns no points, since anyone can write one."""
    if data is None:
        return ["results.json is missing."]
    try:
        results = read_strictly(data.decode("utf-8"))
        run, lines = results["provenance"], []
        for policy, found in results["policies"].items():
            cells = {(cell["learning_rate"], cell["batch_size"]) for cell in found["cells"]}
            accuracies = [cell["validation_accuracy"] for cell in found["cells"]] + [found["test"]["accuracy"]]
            best, test = found["best"], found["test"]
            odd = []
            if len(cells) != 20 or len(found["cells"]) != 20:
                odd.append(f"{len(cells)} different cells instead of 20")
            if not all(0 <= accuracy <= 1 for accuracy in accuracies):
                odd.append("an accuracy that is none")
            if best["validation_accuracy"] != max(accuracies[:-1]):
                odd.append("a best cell that is not the best")
            lines.append(
                f"{policy:.20}: validation {best['validation_accuracy']:.4f} at {best['learning_rate']:g} and"
                f" {best['batch_size']:d}, test {test['accuracy']:.4f} on {test['n']:,d} reviews,"
                f" {found['trainable_parameters']:,d} trained parameters" + (f"; ODD: {', '.join(odd)}" if odd else "")
            )
        same = "the same code as handed in" if run["code"] == code else "other code than was handed in"
        versions = ", ".join(f"{name} {run['versions'][name]}" for name in ("python", "torch"))
        where = f"profile {run['profile']}, {run['wall_seconds'] / 60:.1f} minutes, {run['finished']}, {versions}"
        return [clip(line, 400) for line in [*lines, f"made by {same} ({where})"]]
    except Exception:
        return ["results.json is not a results file."]


def grade_class(
    paths: list[Path],
    out: Path,
    workers: int | None = None,
    notebooks: str = "corner",
    degree: str = "auto",
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Grade submissions into a folder: grades.csv, a sheet for each student, and the answers to be read.

    Submissions that were graded before, with the same files and the same grader, are not graded again.
    """
    absent = [str(path) for path in paths if not os.path.lexists(path)]
    if absent:
        raise CourseError(f"There is no submission {', '.join(absent)}. Give zips, folders, or folders of them.")
    submissions = find_submissions(paths)
    if not submissions:
        raise CourseError(f"There are no zips and no folders in {', '.join(map(str, paths))}.")
    (out / "records").mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, Any]] = {}
    with Workshop(degree) as workshop:
        workers = min(workers or os.cpu_count() or 1, len(submissions))
        grader = Grader(workshop, project_folder(), notebooks, limits, alone=len(submissions) == 1)
        for line in sandbox.describe_degree(workshop.degree) + workshop.reasons:
            say(line)

        def grade(student: str, path: Path) -> dict[str, Any]:
            submission = read_submission(student, path)
            parts = (submission.fingerprint(), grader_fingerprint(), notebooks, workshop.degree, str(limits))
            key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
            kept = out / "records" / f"{student}.json"
            with contextlib.suppress(OSError, ValueError):
                record = json.loads(kept.read_text(encoding="utf-8"))
                if record["key"] == key:
                    return record
            record = grader.grade(submission)
            record["key"] = key if record["graded"] else ""
            write_atomically(kept, json.dumps(record, indent=1))
            write_atomically(out / f"{student}.md", write_sheet(record))
            return record

        with ThreadPoolExecutor(workers) as pool, ended_like_ctrl_c():
            waiting = {pool.submit(grade, student, path): student for student, path in submissions}
            try:
                for number, done in enumerate(as_completed(waiting), start=1):
                    record = records[waiting[done]] = done.result()
                    say(f"[{number:>2}/{len(waiting)}] {record['student']}: {record['automatic']} of 60")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                workshop.stop()
                raise
    ordered = [records[student] for student, _ in submissions]
    write_atomically(out / "grades.csv", write_table(ordered, out / "grades.csv"))
    write_atomically(out / "answers_to_read.md", write_answers(ordered))
    return ordered


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """A polite request to end gets the same tidying up as Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_sheet(record: dict[str, Any]) -> str:
    """A student's score sheet in Markdown; what comes from the submission stands in fences that it cannot close."""
    lines = [f"# {record['student']}", "", f"**{record['automatic']} of {sum(AUTOMATIC.values())} automatic points.**"]
    lines += ["", "| problem | points | of |", "|---|---|---|"]
    lines += [f"| {problem} | {record['points'][problem]} | {most} |" for problem, most in AUTOMATIC.items()]
    answered = {problem: "answered" if problem in record["answers"] else "no answer" for problem in WRITTEN}
    lines += [f"| {problem} ({answered[problem]}) | ____ | {most} |" for problem, most in WRITTEN.items()]
    for title, parts in (
        ("What the checks said", list(record["said"].values())),
        ("Notebooks, re-executed with nbval", record["notebooks"] or ["not re-executed"]),
        ("Results handed in (no points; not trusted)", record["results"] or ["not looked at"]),
        ("Notes", record["notes"] or ["none"]),
    ):
        lines += ["", f"## {title}", "", fence("\n".join(map(str, parts)))]
    lines += ["", "## How it was graded", ""]
    lines += [f"- {line}" for line in [*record["isolation"], f"limits of each problem: {record['limits']}"]]
    lines += [f"- {reason}" for reason in record["why_not_better"]]
    usage = f"{record['seconds']} s, {record['cpu_seconds']:.0f} s of CPU, at most {record['peak_memory'] // MEBI} MiB"
    return "\n".join([*lines, f"- used: {usage}", ""])


def write_answers(records: list[dict[str, Any]]) -> str:
    """All written answers, problem by problem, for reading; points go into grades.csv."""
    lines = ["# Answers to read", "", "Enter the points in grades.csv: grading again keeps them."]
    for problem, most in WRITTEN.items():
        lines += ["", f"## Problem {problem} ({most} points)"]
        for record in records:
            lines += ["", f"### {problem} · {record['student']}", "", f"Points: ____ of {most}", ""]
            lines.append(fence(record["answers"].get(problem, "(no answer)")))
    others = [record for record in records if record["unplaced"]]
    if others:
        lines += ["", "## Cells that students added"]
    for record in others:
        lines += ["", f"### {record['student']}"]
        lines += [f"\n{fence(text)}" for text in record["unplaced"]]
    return "\n".join(lines) + "\n"


def write_table(records: list[dict[str, Any]], before: Path) -> str:
    """grades.csv; the written problems' points, which a person has entered, are taken over from the file before."""
    kept: dict[str, dict[str, str]] = {}
    with contextlib.suppress(OSError, csv.Error, UnicodeDecodeError), before.open(newline="", encoding="utf-8") as file:
        kept = {row.get("student") or "": row for row in csv.DictReader(file)}
    columns = ["student", *AUTOMATIC, "automatic", "of", *WRITTEN, "notes", "seconds", "peak_memory_mib"]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for record in records:
        student = neutralise(record["student"])
        notes = [record["refused"] and f"refused: {record['refused']}", *record["notes"]]
        table.writerow(
            {"student": student, **record["points"], "automatic": record["automatic"], "of": sum(AUTOMATIC.values())}
            | {problem: neutralise(kept.get(student, {}).get(problem) or "") for problem in WRITTEN}
            | {"notes": neutralise(clip("; ".join(filter(None, notes)), 300)), "seconds": record["seconds"]}
            | {"peak_memory_mib": record["peak_memory"] // MEBI}
        )
    return text.getvalue()


def neutralise(text: str) -> str:
    """A spreadsheet must not take a cell for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def fence(text: str) -> str:
    """A block of text that shows all of it: no Markdown or HTML in it works, and nothing in it ends the block."""
    longest = max((len(run) for run in "".join(sign if sign == "`" else " " for sign in text).split()), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{text}\n{marks}"


def clip(text: str, length: int) -> str:
    """One line of visible signs."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def find_memory() -> int:
    """Bytes of memory that this machine or container has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return min(found)


def grader_fingerprint() -> str:
    """Hash the code that decides grades, so that a changed grader grades again."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("instructor/*.py")]):
        if path.name != "exercises.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _add_usage(record: dict[str, Any], outcome: Outcome) -> None:
    record["cpu_seconds"] = round(record["cpu_seconds"] + outcome.cpu_seconds, 1)
    record["peak_memory"] = max(record["peak_memory"], outcome.peak_memory)


def _load_notebook(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"The course's {path.name} cannot be read ({error}). Restore it.") from error
