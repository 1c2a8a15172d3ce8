"""Grade submissions: run their code in sandboxes, judge what comes back, and write a sheet for each student.

A verdict is computed outside, from data that the student's code returned on inputs made for this one submission.
Written answers are collected for reading, their points open.
"""

import base64
import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from helpers.answers import NOTEBOOKS, PROMPT, find_problem, read_notebook
from helpers.settings import CourseError, project_folder, write_atomically
from instructor import sheet
from instructor.places import Place, find_submissions
from instructor.sandbox import Limits, describe_degree
from instructor.sheet import AUTOMATIC
from instructor.workshop import Workshop
from instructor.written import Course, clip, describe_course, examine_apart, shorten

ROOT = Path(__file__).parents[1]


class Grader:
    """Grades one submission after the other, or several at a time, in one workshop."""

    def __init__(self, workshop: Workshop, notebooks: str = "corner", limits: Limits | None = None):
        """`notebooks` says how they are re-executed: `corner` (of the grid), `full` or `none`."""
        self.workshop, self.mode = workshop, notebooks
        self.limits = limits or Limits()
        self.course = read_course()
        self.notebooks = {name: write_notebook(strip_answers(part)) for name, part in self.course.items()}
        self.cells: Course = describe_course(self.course)

    def grade(self, found: dict[str, Any]) -> dict[str, Any]:
        """Everything that is known about a submission that was read (`written.examine`), as JSON data."""
        started = time.monotonic()
        refused = found["refused"] and f"Not graded: {found['refused']}"
        record = found | {
            "graded": True,
            "points": dict.fromkeys(AUTOMATIC, 0),
            "said": dict.fromkeys(AUTOMATIC, refused or "Not graded: there is no exercises.py in the submission."),
            "notebooks": [],
            "isolation": [*describe_degree(self.workshop.degree), *self.workshop.reasons],
            "limits": str(self.limits),
            "cpu_seconds": 0.0,
            "peak_memory": 0,
        }
        del record["exercises"], record["images"]
        if found["exercises"] is not None:
            code = base64.b64decode(found["exercises"])
            verdict = self.workshop.grade_code(code, self.limits)
            record["said"] = {problem: shorten(verdict["said"][problem]) for problem in AUTOMATIC}
            record["points"] = {p: most if verdict["passed"][p] else 0 for p, most in AUTOMATIC.items()}
            record["notes"] = [*(clip(note, 500) for note in verdict["notes"]), *record["notes"]]
            _add_usage(record, verdict)
            if self.mode != "none":
                rerun = self.workshop.run_notebooks(code, self.notebooks, full=self.mode == "full")
                record["notebooks"] = [clip(line, 500) for line in rerun["lines"]]
                _add_usage(record, rerun)
        if not record["graded"]:
            record["notes"].insert(0, "THE GRADER'S SANDBOX FAILED: run the same command again")
        record["automatic"] = sum(record["points"].values())
        record["seconds"] = round(time.monotonic() - started, 1)
        return record


def grade_class(
    paths: list[Path],
    out: Path,
    workers: int | None = None,
    notebooks: str = "corner",
    degree: str = "auto",
    limits: Limits | None = None,
    single: bool = False,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Grade submissions into a folder: grades.csv, a sheet for each student, and the answers to be read.

    Submissions that were graded before, with the same files and the same grader, are not graded again. `single` takes
    each path for one submission. Whatever one does, the others are graded.
    """
    absent = [str(path) for path in paths if not os.path.lexists(path)]
    if absent:
        raise CourseError(f"There is no submission {', '.join(absent)}. Give zips, folders, or folders of them.")
    places = find_submissions(paths, out, single)
    if not places:
        raise CourseError(f"There is nothing to grade in {', '.join(map(str, paths))}.")
    stopping = threading.Event()
    with Workshop(degree) as workshop:
        workshop.alone = len(places) == 1
        grader = Grader(workshop, notebooks, limits)
        for line in [*describe_degree(workshop.degree), *workshop.reasons]:
            say(line)

        def grade(place: Place) -> dict[str, Any]:
            found = examine_apart(place.parts, grader.cells)
            parts = (found["fingerprint"], grader_fingerprint(), notebooks, workshop.degree, str(limits))
            key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
            record = _load_record(out, place, key)
            if record is None:
                try:
                    record = grader.grade(found)
                except Exception as error:
                    if stopping.is_set():  # Nothing is known of this one, so nothing must be said of it.
                        raise
                    record = grader.grade(found | {"exercises": None})
                    record["graded"], record["notes"] = False, [f"THE GRADER FAILED ({error!r:.300}): run it again"]
            record |= {"student": place.student, "submission": place.id, "key": key if record["graded"] else ""}
            record["figures"] = sheet.write_images(found["images"], out, place.student)
            write_atomically(out / "records" / f"{place.id}.json", json.dumps(record, indent=1))
            write_atomically(out / f"{place.student}.md", sheet.write_sheet(record))
            return record

        records: dict[str, dict[str, Any]] = {}
        workers = min(workers or os.cpu_count() or 1, len(places))
        with ThreadPoolExecutor(workers) as pool, _ended_like_ctrl_c():
            waiting = {pool.submit(grade, place): place for place in places}
            try:
                for number, done in enumerate(as_completed(waiting), start=1):
                    record = records[waiting[done].id] = done.result()
                    why = f" ({record['refused']})" if record["refused"] else ""
                    say(f"[{number:>2}/{len(waiting)}] {record['student']}: {record['automatic']} of 60{why}")
            except BaseException:
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                workshop.stop()
                raise
    ordered = [records[place.id] for place in places]
    for line in sheet.update_table(ordered, out / "grades.csv"):
        say(line)
    write_atomically(out / "answers_to_read.md", sheet.write_answers(ordered, grader.course, read_rubric()))
    return ordered


def _load_record(out: Path, place: Place, key: str) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads((out / "records" / f"{place.id}.json").read_text(encoding="utf-8"))
        return record if record["key"] == key else None
    return None


def _add_usage(record: dict[str, Any], used: dict[str, Any]) -> None:
    record["cpu_seconds"] = round(record["cpu_seconds"] + used["cpu_seconds"], 1)
    record["peak_memory"] = max(record["peak_memory"], used["peak_memory"])
    record["graded"] &= used["graded"]


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
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


def read_course() -> dict[str, NotebookNode]:
    """The course's own notebooks: what is re-executed, and the model answers."""
    folder = project_folder() / "notebooks"
    if absent := [name for name in NOTEBOOKS if not (folder / name).exists()]:
        raise CourseError(f"There is no {', '.join(absent)} in {folder}. Run this in the assignment's folder.")
    return {name: read_notebook(folder / name) for name in NOTEBOOKS}


def strip_answers(notebook: NotebookNode) -> NotebookNode:
    """A copy without answers, and without what running left."""
    metadata = {name: part for name, part in notebook.metadata.items() if name != "widgets"}
    cells = []
    for cell in notebook.cells:
        kept = {name: cell[name] for name in ("cell_type", "id", "metadata")}
        kept["source"] = PROMPT if find_problem(cell) else cell.source
        cells.append(kept | ({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {}))
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})


def write_notebook(notebook: NotebookNode) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def read_rubric() -> str:
    path = ROOT / "docs" / "rubric.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def grader_fingerprint() -> str:
    """Hash the code that decides grades, so that a changed grader grades again."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("helpers/**/*.py"), *ROOT.glob("instructor/*.py")]):
        if path.name != "exercises.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()
