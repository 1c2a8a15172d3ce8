"""Grade submissions: run their code in sandboxes, judge what comes back, and write a sheet for each student.

Verdicts are computed outside the sandbox, from the data that the student's code returned for fresh inputs.
Written answers are collected for reading; their points stay open.
"""

import base64
import hashlib
import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers.answers import NOTEBOOKS, find_notebooks, read_notebook
from helpers.results import count_cores
from helpers.settings import CourseError, write_atomically
from instructor import sheet
from instructor.limits import MEBI, Limits
from instructor.places import Place, find_submissions
from instructor.release import clear_notebook
from instructor.sheet import AUTOMATIC, WRITTEN
from instructor.workshop import PROJECT, Workshop
from instructor.written import Course, clip, describe_course, examine_apart, shorten

SANDBOX_MEMORY = 1536 * MEBI  # a little more than one needs to run notebooks


class Grader:
    """Grades submissions in one workshop and writes their sheets, from any number of threads."""

    def __init__(self, workshop: Workshop, out: Path, notebooks: bool = True, limits: Limits | None = None):
        """`notebooks` says whether they are re-executed."""
        self.workshop, self.out, self.re_execute = workshop, out, notebooks
        self.limits = limits or Limits()
        self.course = read_course()
        # Without any outputs: nbval reports an error for a cell that has one but no execution count.
        self.notebooks = {name: clear_notebook(notebook, "")[0].decode() for name, notebook in self.course.items()}
        self.cells: Course = describe_course(self.course)
        self.before = {record["submission"]: record for record in sheet.read_records(out)}
        self.entered = sheet.read_table(out / "grades.csv")[0]
        course = hashlib.sha256(json.dumps(self.notebooks).encode()).hexdigest()
        self.basis = f"{fingerprint_grader()} {course} {notebooks} {workshop.degree} {self.limits}"

    def grade_place(self, place: Place) -> dict[str, Any]:
        """Everything that is known about a submission, as JSON data; unchanged submissions are not graded again."""
        found = examine_apart(place.parts, self.cells)
        key = hashlib.sha256(f"{found['fingerprint']} {self.basis}".encode()).hexdigest()[:16]
        record = before = self.before.get(place.id, {})
        if before.get("key") != key:
            try:
                record = self.grade(found)
            except Exception as error:
                if self.workshop.stopped.is_set():  # No result, so no record of it.
                    raise
                record = self.grade(found | {"exercises": None})
                record |= {"graded": False, "notes": [f"THE GRADER FAILED ({error!r:.300}): run it again"]}
        record |= self.compare_answers(place, before, record["answers"])
        record |= {"student": place.student, "submission": place.id, "key": key if record["graded"] else ""}
        record["place"] = place.key
        record["figures"] = sheet.write_images(found["images"], self.out, place.student)
        write_atomically(self.out / "records" / f"{place.id}.json", json.dumps(record, indent=1))
        write_atomically(self.out / f"{place.student}.md", sheet.write_sheet(record))
        return record

    def compare_answers(self, place: Place, before: dict[str, Any], answers: dict[str, str]) -> dict[str, Any]:
        """Which answers differ from those that a person entered points for (`read`: the points, and that answer)."""
        seen, read = before.get("answers", answers), {}
        for problem in WRITTEN:
            if points := self.entered.get(place.id, {}).get(problem):
                known = before.get("read", {}).get(problem, [""])
                read[problem] = known if known[0] == points else [points, seen.get(problem)]
        changed = [problem for problem, (_, answer) in read.items() if answer != answers.get(problem)]
        said = [f"{problem}: the answer has changed since its points were entered" for problem in changed]
        return {"read": read, "changed": said}

    def grade(self, found: dict[str, Any]) -> dict[str, Any]:
        """Grade a submission, as read by `written.examine`."""
        started, used = time.monotonic(), []
        refused = found["refused"] and f"Not graded: {found['refused']}"
        record = found | {
            "points": dict.fromkeys(AUTOMATIC, 0),
            "said": dict.fromkeys(AUTOMATIC, refused or "Not graded: there is no exercises.py in the submission."),
            "notebooks": [],
            "isolation": self.workshop.isolation,
            "limits": str(self.limits),
        }
        del record["exercises"], record["images"]
        if found["exercises"] is not None:
            code = base64.b64decode(found["exercises"])
            used.append(verdict := self.workshop.grade_code(code, self.limits))
            record["said"] = {problem: shorten(verdict["said"][problem]) for problem in AUTOMATIC}
            record["points"] = {p: most if verdict["passed"][p] else 0 for p, most in AUTOMATIC.items()}
            record["notes"] = [*(clip(note, 500) for note in verdict["notes"]), *record["notes"]]
            if self.re_execute and verdict["broken"]:  # It would use up all its time there, too.
                record["notebooks"] = [f"not re-executed: the code broke a limit in {', '.join(verdict['broken'])}"]
            elif self.re_execute:
                used.append(rerun := self.workshop.run_notebooks(code, self.notebooks))
                record["notebooks"] = [clip(line, 500) for line in rerun["lines"]]
        record["graded"] = all(run["graded"] for run in used)
        record["cpu_seconds"] = round(sum(run["cpu_seconds"] for run in used), 1)
        record["peak_memory"] = max((run["peak_memory"] for run in used), default=0)
        if not record["graded"]:
            record["notes"].insert(0, "THE GRADER'S SANDBOX FAILED: run the same command again")
        record["automatic"] = sum(record["points"].values())
        record["seconds"] = round(time.monotonic() - started, 1)
        return record


def grade_class(
    paths: list[Path],
    out: Path,
    workers: int | None = None,
    notebooks: bool = True,
    degree: str = "auto",
    limits: Limits | None = None,
    single: bool = False,
) -> list[dict[str, Any]]:
    """Grade submissions, and write into a folder: grades.csv, a sheet for each student, and the answers to read.

    Submissions that were graded before, with the same files and the same grader, are not graded again. `single` treats
    each path as one submission. Whatever one of them does, the others are graded.
    """
    if absent := [str(path) for path in paths if not os.path.lexists(path)]:
        raise CourseError(f"There is no submission {', '.join(absent)}. Give zips, folders, or folders of them.")
    if os.path.realpath(out) in map(os.path.realpath, paths):
        raise CourseError(f"{out} is the folder of the submissions: give --out another folder for the grades.")
    places = find_submissions(paths, out, single)
    if not places:
        raise CourseError(f"There is nothing to grade in {', '.join(map(str, paths))}.")
    with Workshop(degree, (*paths, out)) as workshop:
        workshop.alone = len(places) == 1
        grader = Grader(workshop, out, notebooks, limits)
        print(*workshop.isolation, sep="\n", flush=True)
        usual = min(count_cores(), workshop.memory // SANDBOX_MEMORY)
        with ThreadPoolExecutor(max(1, min(workers or usual, len(places)))) as pool:
            try:
                waiting = [pool.submit(grader.grade_place, place) for place in places]
                left, numbers = {*waiting}, count(1)
                while left:  # If another thread receives a signal, it does not wake this one, which has to handle it.
                    done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                    for each in done:
                        record = each.result()
                        why = f" ({record['refused']})" if record["refused"] else ""
                        said = f"{record['student']}: {record['automatic']} of {sum(AUTOMATIC.values())}{why}"
                        print(f"[{next(numbers):>2}/{len(waiting)}] {said}", flush=True)
            except BaseException:
                workshop.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    records = [each.result() for each in waiting]
    if said := sheet.update_table(records, out / "grades.csv"):
        print(said)
    answers = sheet.write_answers(sheet.read_records(out), grader.course, read_rubric())
    write_atomically(out / "answers_to_read.md", answers)
    return records


def read_course() -> dict[str, NotebookNode]:
    """The course's own notebooks, with the code that is re-executed and the model answers."""
    folder = find_notebooks()
    return {name: read_notebook(folder / name) for name in NOTEBOOKS}


def read_rubric() -> str:
    path = PROJECT / "docs" / "rubric.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def fingerprint_grader() -> str:
    """Hash the code that determines grades, so that a changed grader grades again."""
    digest = hashlib.sha256()
    for path in sorted([*PROJECT.glob("helpers/**/*.py"), *PROJECT.glob("instructor/*.py")]):
        if path.name != "exercises.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()
