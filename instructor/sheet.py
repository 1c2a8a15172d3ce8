"""What graders read: a sheet for each student, grades.csv, and the written answers next to the model answers.

Text from submissions is put into fences that it cannot close, and into table cells that spreadsheets do not evaluate.
"""

import base64
import contextlib
import csv
import io
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers.answers import ASKING, TITLES, collect_answers, find_problem, read_points
from helpers.recipe import FUNCTIONS
from helpers.settings import set_aside, write_atomically
from instructor.workshop import PROJECT
from instructor.written import clip

POINTS = read_points(PROJECT / "notebooks")
AUTOMATIC, WRITTEN = ({problem: POINTS[problem] for problem in problems} for problems in (FUNCTIONS, TITLES))
COLUMNS = ["student", *AUTOMATIC, "automatic", "of", *WRITTEN, "notes", "seconds", "peak_memory_mib", "submission"]


def describe(record: dict[str, Any]) -> dict[str, list[str]]:
    """The sections of a submission's sheet: from each title to its lines."""
    usage = f"{record['seconds']} s, {record['cpu_seconds']:.0f} s of CPU, at most {record['peak_memory'] // 2**20} MiB"
    place, limits = clip(record.get("place", "?"), 300), f"limits of each problem: {record['limits']}"
    return {
        "What the checks said": list(record["said"].values()),
        "Notebooks, re-executed with nbval": record["notebooks"] or ["not re-executed"],
        "Results handed in (no points; not trusted)": record["results"] or ["not examined"],
        "Notes": [*record["changed"], *record["notes"]] or ["none"],
        "How it was graded": [f"read from {place}", *record["isolation"], limits, f"used: {usage}"],
    }


def describe_answer(record: dict[str, Any], problem: str) -> str:
    return f"{problem} ({'answered' if problem in record['answers'] else 'no answer'})"


def write_sheet(record: dict[str, Any]) -> str:
    """A student's score sheet in Markdown."""
    lines = [f"# {record['student']}", "", f"**{record['automatic']} of {sum(AUTOMATIC.values())} automatic points.**"]
    lines += ["", "| problem | points | of |", "|---|---|---|"]
    lines += [f"| {problem} | {record['points'][problem]} | {most} |" for problem, most in AUTOMATIC.items()]
    for problem, most in WRITTEN.items():
        points, _ = record["read"].get(problem, ("in grades.csv", ""))
        lines.append(f"| {describe_answer(record, problem)} | {clip(points, 40)} | {most} |")
    for title, said in describe(record).items():
        lines += ["", f"## {title}", "", fence("\n".join(said))]
    return "\n".join(lines) + "\n"


def write_answers(records: list[dict[str, Any]], course: dict[str, NotebookNode], rubric: str) -> str:
    """All written answers by problem, each with question, model answer and rubric; points are entered elsewhere."""
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
            lines += ["", f"### {problem} · {record['student']}", ""]
            lines.append(fence(record["answers"].get(problem, "(no answer)")))
            own = [name for name in record["figures"] if Path(name).name.startswith(f"{problem}-")]
            lines += [f"\n![{Path(name).name}]({name})" for name in own]
    if others := [record for record in records if record["unplaced"]]:
        lines += ["", "## Cells that students added, or changed"]
    for record in others:
        lines += ["", f"### {record['student']}"]
        lines += [f"\n{fence(text)}" for text in record["unplaced"]]
    return "\n".join(lines) + "\n"


def _find_question(course: dict[str, NotebookNode], problem: str) -> str:
    """The text of the cell that asks for the answer, without its heading."""
    question = ""
    for cell in (cell for notebook in course.values() for cell in notebook.cells):
        if find_problem(cell) == problem:
            break
        question = cell.source if ASKING in cell.source else question
    return re.sub(r"^#+ .*\n", "", question).strip()


def write_images(images: dict[str, str], out: Path, student: str) -> list[str]:
    """Write the images pasted into answers; returns the files' names, relative to `out`."""
    folder = out / "answers_files" / student
    for name, data in images.items():
        write_atomically(folder / name, base64.b64decode(data))
    return [f"answers_files/{student}/{name}" for name in images]


def read_records(out: Path) -> list[dict[str, Any]]:
    """The records of all submissions that were graded into a folder, by student; other files are left out."""
    found = []
    for path in out.glob("records/*.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            found += [record] if {"student", "submission", "answers"} <= record.keys() else []
    return sorted(found, key=lambda record: record["student"].casefold())


def update_table(records: list[dict[str, Any]], path: Path) -> str:
    """Write grades.csv; returns a message if points could not be kept, else an empty text.

    What a person has entered stays with the submission, identified by the column `submission`, not by the student's
    name. Columns that a person has added are kept, as are rows of submissions that are not graded this time.
    """
    kept, missing = read_table(path)
    said = ""
    if missing:
        said = f"The points in {path.name} could not be kept: it has no column `{missing[0]}`. It was renamed to"
        said += f" {set_aside(path)}. Copy the points from there, or restore that column and the file's old name."
    own = {name: "" for row in kept.values() for name in row if name not in COLUMNS}
    rows = []
    for record in records:
        before = kept.pop(record["submission"], {})
        refused = [f"not graded: {record['refused']}"] if record["refused"] else []
        rows.append(
            record
            | record["points"]
            | {name: before.get(name) or "" for name in [*WRITTEN, *own]}
            | {"student": neutralise(record["student"])}
            | {"notes": neutralise(" / ".join(refused + record["changed"] + record["notes"]))}
            | {"of": sum(AUTOMATIC.values()), "peak_memory_mib": record["peak_memory"] // 2**20}
        )
    text = io.StringIO()
    columns = [*COLUMNS[:-1], *own, COLUMNS[-1]]
    table = csv.DictWriter(text, columns, extrasaction="ignore", restval="", lineterminator="\n")
    table.writeheader()
    table.writerows([*rows, *kept.values()])
    mark = "" if text.getvalue().isascii() else "\ufeff"  # Without it, Excel shows Zoë as ZoÃ«.
    write_atomically(path, mark + text.getvalue())
    return said


def read_table(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The rows of grades.csv by submission, in any form a spreadsheet may save, and the columns that it lacks."""
    missing = ["submission"]
    if not path.exists():
        return {}, []
    with contextlib.suppress(OSError, ValueError, csv.Error):
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        try:
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")  # as spreadsheets on Windows may write it
        for mark in ",;\t":
            names, *rows = csv.reader(io.StringIO(text, newline=None), delimiter=mark)
            if "submission" in names:
                missing = [name for name in WRITTEN if name not in names]
                return ({} if missing else _name_rows(names, rows)), missing
    return {}, missing


def _name_rows(names: list[str], rows: list[list[str]]) -> dict[str, dict[str, str]]:
    """Rows by submission; rows and columns that a person has added or copied get unique keys and names."""
    names += [""] * (max(map(len, [names, *rows])) - len(names))
    unique = [
        name if name and name not in names[:at] else f"{name or 'column'} {at + 1}" for at, name in enumerate(names)
    ]
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(filter(any, rows), start=2):
        cells = {name: cell for name, cell in zip(unique, row, strict=False) if cell or name in names}
        key = cells.get("submission") or f"row {number}"
        if key in found:
            key, cells = f"row {number}", cells | {"submission": ""}
        found[key] = cells
    return found


def neutralise(text: str) -> str:
    """Prevent spreadsheets from taking a cell, or its part after a semicolon, for a formula."""
    text = clip(text, 300).replace(";", ",")
    return f"'{text}" if text.lstrip(" \"'").startswith(tuple("=+-@＝＋－＠")) else text  # noqa: RUF001


def fence(text: str) -> str:
    """A fenced block that shows the text as it is: no Markdown or HTML in it is rendered, and nothing in it ends it.

    Long lines are broken, since nothing else does that in a fence; rows of tables are not.
    """
    text = "\n".join(line if line[:1] == "|" else textwrap.fill(line, 110) for line in text.split("\n"))
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{text}\n{marks}"
