"""What graders read: a sheet for each student, grades.csv, and the written answers beside the course's own.

What comes from a submission stands in fences that it cannot close, and in table cells that no spreadsheet computes.
"""

import base64
import contextlib
import csv
import io
import os
import re
import time
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers.answers import TITLES, collect_answers
from helpers.settings import CourseError, write_atomically
from instructor.written import clip

AUTOMATIC = {"1d": 10, "2a": 10, "2b": 20, "2c": 20}
WRITTEN = dict.fromkeys(TITLES, 10)
COLUMNS = ["student", *AUTOMATIC, "automatic", "of", *WRITTEN, "notes", "seconds", "peak_memory_mib", "submission"]


def write_sheet(record: dict[str, Any]) -> str:
    """A student's score sheet in Markdown."""
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
    usage = f"{record['seconds']} s, {record['cpu_seconds']:.0f} s of CPU, at most {record['peak_memory'] // 2**20} MiB"
    return "\n".join([*lines, f"- used: {usage}", ""])


def write_answers(records: list[dict[str, Any]], course: dict[str, NotebookNode], rubric: str) -> str:
    """All written answers, problem by problem, each with its question, model answer and rubric; points go elsewhere."""
    answers = collect_answers(list(course.values()))
    lines = ["# Answers to read", "", "Enter the points in grades.csv: grading again keeps them."]
    for problem, most in WRITTEN.items():
        lines += ["", f"## Problem {problem} ({most} points)", "", _find_question(course, problem)]
        model = "\n\n".join(cell.source.replace("](../", "](") for cell in answers[problem]) or "(none)"
        part = re.search(rf"(?ms)^## {problem}\b[^\n]*\n(.*?)(?=^## |\Z)", rubric)
        for title, text in (("Model answer", model), ("Rubric", part[1].strip() if part else "")):
            if text:
                lines += ["", f"<details><summary>{title}</summary>", "", text, "", "</details>"]
        for record in records:
            lines += ["", f"### {problem} · {record['student']}", "", f"Points: ____ of {most}", ""]
            lines.append(fence(record["answers"].get(problem, "(no answer)")))
            lines += [f"\n![{Path(name).name}]({name})" for name in record["figures"] if f"/{problem}-" in name]
    if others := [record for record in records if record["unplaced"]]:
        lines += ["", "## Cells that students added, or changed"]
    for record in others:
        lines += ["", f"### {record['student']}"]
        lines += [f"\n{fence(text)}" for text in record["unplaced"]]
    return "\n".join(lines) + "\n"


def _find_question(course: dict[str, NotebookNode], problem: str) -> str:
    """The Markdown cell before the answer's."""
    for notebook in course.values():
        before = ""
        for cell in notebook.cells:
            if f"problem-{problem}" in cell.metadata.get("tags", []):
                return re.sub(r"^#+ .*\n", "", before).strip()
            before = cell.source if cell.cell_type == "markdown" else before
    return ""


def write_images(images: dict[str, str], out: Path, student: str) -> list[str]:
    """Write what was pasted into answers beside them; returns the files' names from `out`."""
    names = []
    try:
        for name, data in images.items():
            names.append(f"answers_files/{student}/{name}")
            (out / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (out / names[-1]).write_bytes(base64.b64decode(data))
    except OSError as error:
        raise CourseError(f"Could not write {out / names[-1]}: {error.strerror}.") from error
    return names


def update_table(records: list[dict[str, Any]], path: Path) -> list[str]:
    """Write grades.csv; returns what there is to say about it.

    Points that a person has entered stay with the submission: the column of that name says which, the student's
    name does not. Rows of submissions that are not graded this time are kept.
    """
    kept, said = _read_table(path)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    table.writeheader()
    for record in records:
        notes = [record["refused"] and f"not graded: {record['refused']}", *record["notes"]]
        entered = {problem: (kept.get(record["submission"], {}).get(problem) or "") for problem in WRITTEN}
        own = {"student": neutralise(record["student"]), "submission": record["submission"], **record["points"]}
        own |= {"automatic": record["automatic"], "of": sum(AUTOMATIC.values()), "seconds": record["seconds"]}
        own |= {"notes": neutralise(" / ".join(filter(None, notes))), "peak_memory_mib": record["peak_memory"] // 2**20}
        table.writerow(own | entered)
    graded = {record["submission"] for record in records}
    table.writerows(row for submission, row in kept.items() if submission not in graded)
    write_atomically(path, text.getvalue())
    return said


def _read_table(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The rows of the file before, by submission, as a spreadsheet may have saved them."""
    if not path.exists():
        return {}, []
    with contextlib.suppress(OSError, csv.Error):
        data = path.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
        head = text.partition("\n")[0]
        rows = list(csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=head.count)))
        if rows and "submission" in rows[0]:
            return {row["submission"]: row for row in rows if row["submission"]}, []
    aside = path.with_name(f"grades-before-{time.strftime('%Y%m%d-%H%M%S')}.csv")
    os.replace(path, aside)
    return {}, [f"The points in {path.name} could not be taken over: it has no column `submission`. It is {aside} now."]


def neutralise(text: str) -> str:
    """A spreadsheet must not take a cell, nor a part of it where it separates cells at semicolons, for a formula."""
    text = clip(text, 300).replace(";", ",")
    return f"'{text}" if text.lstrip(" \"'").startswith(tuple("=+-@＝＋－＠")) else text  # noqa: RUF001


def fence(text: str) -> str:
    """A block of text that shows all of it: no Markdown or HTML in it works, and nothing in it ends the block."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{text}\n{marks}"
