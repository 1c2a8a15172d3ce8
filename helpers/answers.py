"""Written answers: a reader for whatever editors make of a notebook, and `answers.md` with its tables and figures."""

import base64
import json
import mimetypes
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from helpers.results import load_results, published
from helpers.settings import OFFLINE, CourseError, Settings, project_folder, short_name, write_atomically

# The notebooks with problems; the lab after them has none.
# Those that are handed in; the lab discusses two of the answers again, at full size.
NOTEBOOKS = ("01_bert_inputs.ipynb", "02_hyperparameters.ipynb", "03_full_vs_bitfit.ipynb", "04_test_and_report.ipynb")
LAB = "05_what_limits_bitfit.ipynb"
TITLES = {
    "1b": "Understand BERT Inputs",
    "1c": "Understand BERT Hyperparameters",
    "3a": "Train Models",
    "3b": "Test Models and Report Results",
}
PROMPT = "*Your answer here.*"
# An answer cell with one of these is not answered; the last is what nbgrader writes.
PROMPTS = ("", PROMPT, "YOUR ANSWER HERE")
MAX_CELLS = 5_000
DATA_IMAGE = re.compile(r"data:(image/[\w.+-]+);base64,([A-Za-z0-9+/=]+)")
PUBLISHED_NOTE = (
    "The columns marked *Published* are the answer sheet's that this project starts from (prajjwal1/bert-tiny on"
    " stanfordnlp/imdb, one run a policy); they were not measured here."
)
QUICK_NOTE = (
    "The figures marked as measured are those of the quick profile: a stand-in checkpoint of BERT-tiny's shape and"
    " short, synthetic reviews. They show that the whole experiment runs; they are not the real experiment's."
)
STAND_IN_NOTE = (
    "The figures marked as measured are those of a stand-in checkpoint of BERT-tiny's shape, whose pre-training was"
    " much shorter than that of prajjwal1/bert-tiny."
)

Answers = dict[str, list[NotebookNode]]  # the answer cells of each written problem


def read_notebook(path: Path) -> NotebookNode:
    try:
        return parse_notebook(path.read_bytes(), path.name)
    except OSError as error:
        raise CourseError(f"{path.name} cannot be read ({error.strerror}). Restore it from your last copy.") from error


def parse_notebook(data: bytes, name: str) -> NotebookNode:
    """Read what Jupyter, VS Code or Colab saved, repaired to version 4.5; CourseError where there are no cells.

    Every cell comes back with `cell_type`, `id`, `source` (text), `metadata` (with `tags`), `attachments` (from name to
    kind to base64), code cells also with `outputs` and `execution_count`. What is of the wrong form is left out.
    """
    try:
        content = json.loads(data)  # also with a byte order mark
        if isinstance(content, dict) and "cells" not in content and "worksheets" in content:
            content = nbformat.reads(json.dumps(content), as_version=4)
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            raise ValueError("it has no list of cells")
        if len(content["cells"]) > MAX_CELLS:
            raise ValueError(f"it has {len(content['cells']):,} cells, more than are read")
        cells = [_repair_cell(cell, at) for at, cell in enumerate(content["cells"]) if isinstance(cell, dict)]
        metadata = _dict(content.get("metadata"))
    except Exception as error:  # What a broken file makes the libraries raise has no common kind.
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CourseError(
            f"{name} is not a readable notebook ({first:.200}). Restore it from your last copy."
        ) from None
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})


def _repair_cell(cell: dict[str, Any], at: int) -> dict[str, Any]:
    kind, metadata = cell.get("cell_type"), _dict(cell.get("metadata"))
    tags = metadata.get("tags")
    if "tags" in metadata:
        metadata["tags"] = [tag for tag in (tags if isinstance(tags, list) else [tags]) if isinstance(tag, str)]
    # Colab keeps the id in the metadata.
    names = [name for name in (cell.get("id"), metadata.get("id")) if isinstance(name, str) and name]
    repaired = {"cell_type": kind if kind in ("code", "markdown") else "raw", "id": names[0] if names else f"cell-{at}"}
    repaired |= {"metadata": metadata, "source": _join(cell.get("source"))}
    if kind == "code":
        outputs = cell.get("outputs") if isinstance(cell.get("outputs"), list) else []
        repaired["outputs"] = [o for o in outputs if isinstance(o, dict) and isinstance(o.get("output_type"), str)]
        repaired["execution_count"] = cell.get("execution_count")
    elif attachments := _dict(cell.get("attachments")):
        repaired["attachments"] = {
            name: {kind: _join(data) for kind, data in _dict(versions).items()}
            for name, versions in attachments.items()
        }
    return repaired


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _join(source: Any) -> str:
    """A text, or a list of lines; half a character, which no file can hold, becomes a question mark."""
    lines = source if isinstance(source, list) else [source]
    text = "".join(line for line in lines if isinstance(line, str))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_copy(name: str, wanted: str) -> bool:
    """Whether a file's name is `wanted` as Colab, Jupyter, a browser or a file manager names a copy of it."""
    stem, _, ending = wanted.rpartition(".")
    before, found, after = name.lower().removesuffix(".txt").rpartition(stem)
    middle = after.removesuffix(f".{ending}")
    return (
        bool(found)
        and middle != after
        and not name.startswith(".")  # also macOS's sidecars, ._NAME
        and not before[-1:].isalnum()
        and not before.endswith(("test_", "test-"))
        and re.fullmatch(r"(\W+|_+)?[^\W\d_]{0,12}\W{0,4}_?\d{0,3}\W?", middle) is not None
    )


def find_notebook(folder: Path, name: str) -> Path | None:
    """The course's notebook `name` in a folder, or the only copy of it; CourseError where there are several."""
    if (folder / name).exists():
        return folder / name
    copies = sorted(path for path in folder.glob("*.ipynb*") if is_copy(path.name, name))
    if len(copies) > 1:
        found = ", ".join(path.name for path in copies)
        raise CourseError(
            f"{folder.name}/ has several copies of {name}: {found}. Rename the one that counts to {name}."
        )
    return copies[0] if copies else None


def read_notebooks(folder: Path, names: tuple[str, ...] = NOTEBOOKS) -> list[NotebookNode]:
    """The course's notebooks with problems that are in a folder; copies beside them do not count."""
    paths = [find_notebook(folder, name) for name in names]
    return [read_notebook(path) for path in paths if path]


def find_problem(cell: NotebookNode) -> str | None:
    """The written problem that a cell answers, by its tags, or by its id where an editor has lost them."""
    tags = cell.metadata.get("tags", [])
    return next((p for p in TITLES if {"answer", f"problem-{p}"} <= set(tags) or cell.id == f"answer-{p}"), None)


def collect_answers(notebooks: list[NotebookNode]) -> Answers:
    """Find the written answers of every problem, leaving out prompts that nobody has answered."""
    found: Answers = {problem: [] for problem in TITLES}
    for cell in (cell for notebook in notebooks for cell in notebook.cells):
        problem = find_problem(cell)
        if problem and (cell.source.strip() not in PROMPTS or cell.get("attachments")):
            found[problem].append(cell)
    return found


def take_figures(cell: NotebookNode, stem: str) -> tuple[str, dict[str, bytes]]:
    """A cell's text, and the images pasted into it as files `<stem>-1.png`, ... which the text now links to."""
    text, figures = cell.source.strip(), {}

    def keep(kind: str, data: str) -> str:
        name = f"{stem}-{len(figures) + 1}{mimetypes.guess_extension(kind) or '.bin'}"
        try:
            figures[name] = base64.b64decode(data)
        except ValueError:
            return "an-image-that-cannot-be-read"
        return name

    attachments = cell.get("attachments", {})
    for name in sorted(attachments, key=len, reverse=True):  # The longer first: one may begin another.
        link = next((keep(kind, data) for kind, data in attachments[name].items()), "an-image-that-is-empty")
        shown = text.replace(f"attachment:{name}", link).replace(f"attachment:{quote(name)}", link)
        text = shown if shown != text else f"{text}\n\n![image]({link})"
    return DATA_IMAGE.sub(lambda found: keep(found[1], found[2]), text), figures


def export_answers(found: Answers, results: dict[str, Any], folder: str = "") -> tuple[str, dict[str, bytes]]:
    """`answers.md` as text, and its images by name, which it looks for in `folder`.

    Raises CourseError naming every written problem without an answer.
    """
    from nbconvert import MarkdownExporter

    from helpers import report  # pandas: a second that reading a notebook does not need

    if unanswered := [problem for problem in TITLES if not found[problem]]:
        raise CourseError(
            f"No answer to problem {', '.join(unanswered)} in the notebooks: write it in the cell tagged"
            f" `answer` and `problem-{unanswered[0]}`, and save the notebook."
        )
    tables = {"3a": report.validation_table, "3b": report.test_table}
    parts, figures = ["# Answers", _header(results)], {}
    for problem, title in TITLES.items():
        parts.append(f"## Problem {problem}: {title}")
        if problem in tables:
            parts.append(report.to_markdown(tables[problem](results, published())))
        if problem == "3b":
            parts.append(report.describe_gap(results))
        for number, cell in enumerate(found[problem], start=1):
            text, pasted = take_figures(cell, f"{folder}{'/' * bool(folder)}{problem}-{number}")
            parts.append(text)
            figures |= pasted
    text, _ = MarkdownExporter().from_notebook_node(new_notebook(cells=[new_markdown_cell(part) for part in parts]))
    # The notebooks name files from their own folder, answers.md from the one above.
    return text.strip().replace("](../", "](") + "\n", figures


def write_answers(notebooks: Path, results: Path, out: Path) -> None:
    """Write `out`, and the images of the answers into a folder beside it."""
    found = collect_answers(read_notebooks(notebooks, (*NOTEBOOKS, LAB)))
    text, figures = export_answers(found, load_results(results), f"{out.stem}_files")
    try:
        for name, content in figures.items():
            (out.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (out.parent / name).write_bytes(content)
    except OSError as error:
        raise CourseError(f"Could not write {out.parent / name}: {error.strerror}.") from error
    write_atomically(out, text)


def find_notebooks() -> Path:
    folder = project_folder() / "notebooks"
    if not any(folder.glob("*.ipynb")):
        raise CourseError(f"There are no notebooks in {folder}. Run this in the assignment's folder.")
    return folder


def find_results(settings: Settings) -> Path:
    """The committed results of the profile where there are some, else those of the last run."""
    committed = project_folder() / "results" / f"{settings.profile}.json"
    return committed if committed.exists() else settings.folder / "results.json"


def _header(results: dict[str, Any]) -> str:
    from helpers import report

    run = results["provenance"]
    note = ""
    if run["profile"] == "quick":
        note = f"{QUICK_NOTE}\n\n"
    elif run["model"]["name"] == short_name(str(OFFLINE / "checkpoint")):
        note = f"{STAND_IN_NOTE}\n\n"
    return f"{note}{PUBLISHED_NOTE}\n\nMeasured: {report.describe_run(results)}"
