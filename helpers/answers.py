"""Written answers: read them from notebooks, whichever editor saved those, and write `answers.md`."""

import base64
import json
import mimetypes
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode

from helpers.recipe import FUNCTIONS
from helpers.results import expecting_a_search, load_results, published
from helpers.settings import OFFLINE, CourseError, project_folder, short_name, write_atomically

# The notebooks with problems, which are handed in; the lab discusses two of the answers again, at full size.
NOTEBOOKS = ("01_bert_inputs.ipynb", "02_hyperparameters.ipynb", "03_full_vs_bitfit.ipynb", "04_test_and_report.ipynb")
LAB = "05_what_limits_bitfit.ipynb"
TITLES = {
    "1b": "Understand BERT Inputs",
    "1c": "Understand BERT Hyperparameters",
    "3a": "Train Models",
    "3b": "Test Models and Report Results",
}
PROMPT = "*Your answer here.*"
# The words of a problem's heading, and of a cell that asks for an answer; and the headings that follow the answers.
HEADING = r"## Problem (\w+)"
ASKING = "into the next cell"
AFTER = ("## From two sentences to a data set", "## What you now know", "## Hand in")
MAX_CELLS, MAX_SIZE = 5_000, 32 * 2**20  # most cells, and most bytes, of a notebook that `grade` reads
# Notes above the answers that say what the figures are not: first where the course's own model or reviews made them.
STAND_INS = {
    ("model", "checkpoint"): "The figures marked as measured are those of a stand-in for prajjwal1/bert-tiny: a"
    " checkpoint of its shape, distilled from all-MiniLM-L6-v2 on IMDb texts without their labels.",
    ("data", "reviews"): "They were measured on short, synthetic reviews: they show that the whole experiment runs, and"
    " are not the real experiment's.",
}
PUBLISHED = (
    "The columns marked *Published* are those of the answer sheet that this project starts from (prajjwal1/bert-tiny on"
    " stanfordnlp/imdb, one run for each cell); they were not measured here."
)
DATA_IMAGE = re.compile(r"data:(image/[\w.+-]+);base64,([A-Za-z0-9+/=]+)")
# A link of Markdown or HTML, or a reference definition, that names an image file which is not on the web.
LOCAL_IMAGE = re.compile(
    r"""(?im)(?:\]\(|\bsrc\s*=|^\[[^\]\n]+\]:)\s*(?!["'<]?(?:https?:|data:))["'<]?"""
    r"""([^\s)"'<>][^)"'>\n]{0,200}?\.(?:png|jpe?g|gif|svg|webp|bmp))\b"""
)
CODE = re.compile(r"^(```|~~~).*?^\1|(?<!`)(`+)(?!`)[^`\n]+\2", re.M | re.S)
URL = ";,/?:@&=+$-_.!~*'()#"  # characters that browsers do not write as %..
# What copies have after the name: ` (1)`, `-Copy1`, ` - Kopie (2)`, `_Ann_Example`, or just `2`; but not `_test`.
COPY = r"(?![\W_]*tests?\W)[^\W\d_]{0,12}\d{0,3}([\W_].{0,60})?"
# What browsers, and Colab and Drive in other languages, add after the full name: `“01_bert_inputs.ipynb”的副本`.
MORE = r"([^a-z\d.~][^.]{0,20})?(\.(txt|json))?"

# How images of the usual kinds begin; what an editor says of their kind may be wrong.
IMAGES = {".png": b"\x89PNG", ".jpg": b"\xff\xd8\xff", ".gif": b"GIF8", ".webp": b"RIFF"}

Answers = dict[str, list[NotebookNode]]  # the answer cells of each written problem


def read_file(path: Path, advice: str = "Restore it from your last copy.") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path.parent.name}/{path.name} cannot be read ({error.strerror}). {advice}") from error


def read_notebook(path: Path) -> NotebookNode:
    return parse_notebook(read_file(path), path.name)


def parse_notebook(data: bytes, name: str) -> NotebookNode:
    """Read a notebook saved by Jupyter, VS Code or Colab, repaired to version 4.5; CourseError if it has no cells.

    Every cell has `cell_type`, `id`, `source` (text) and `metadata` (with `tags`); code cells also have `outputs` and
    `execution_count`, others `attachments` (name to MIME type to base64). Malformed parts are left out.
    """
    try:
        content = _take(dict, json.loads(data))  # also with a byte order mark
        if not isinstance(content.get("cells"), list):
            raise ValueError("it has no list of cells")
        if len(content["cells"]) > MAX_CELLS:
            raise ValueError(f"it has {len(content['cells']):,} cells; at most {MAX_CELLS:,} are read")
        cells = [_repair_cell(cell, at) for at, cell in enumerate(content["cells"]) if isinstance(cell, dict)]
        whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": _take(dict, content.get("metadata")), "cells": cells}
        return nbformat.from_dict(whole)
    except Exception as error:  # On broken files, the libraries raise errors of many kinds.
        raise CourseError(
            f"{name} is not a readable notebook ({error!r:.200}). Restore it from your last copy."
        ) from None


def _repair_cell(cell: dict[str, Any], at: int) -> dict[str, Any]:
    kind, metadata = cell.get("cell_type"), _take(dict, cell.get("metadata"))
    if "tags" in metadata:
        metadata["tags"] = [tag for tag in _take(list, metadata["tags"]) if isinstance(tag, str)]
    names = (cell.get("id"), metadata.get("id"), f"cell-{at}")  # Colab keeps the id in the metadata.
    repaired = {
        "cell_type": kind if kind in ("code", "markdown") else "raw",
        "id": next(name for name in names if name and isinstance(name, str)),
        "metadata": metadata,
        "source": re.sub(r"\A#%%(\s.*)?(\n|\Z)", "", _join(cell.get("source"))),  # PyCharm's mark of a cell
    }
    if kind == "code":
        outputs = [output for output in _take(list, cell.get("outputs")) if isinstance(output, dict)]
        repaired["outputs"] = [output for output in outputs if isinstance(output.get("output_type"), str)]
        repaired["execution_count"] = cell.get("execution_count")
    elif attachments := _take(dict, cell.get("attachments")):
        repaired["attachments"] = {
            _join(name): {kind: _join(data) for kind, data in _take(dict, versions).items()}
            for name, versions in attachments.items()
        }
    return repaired


def _take(kind: type, value: Any) -> Any:
    """The value if it has this type, else an empty one."""
    return value if isinstance(value, kind) else kind()


def _join(source: Any) -> str:
    """Join a text or list of lines, with `\\n` at line ends; a lone surrogate, which no file can hold, becomes �."""
    lines = source if isinstance(source, list) else [source]
    text = "".join(line for line in lines if isinstance(line, str)).replace("\r\n", "\n")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_copy(name: str, wanted: str) -> bool:
    """Whether a file is called `wanted`, or as Colab, Jupyter, a browser or a file manager would call a copy of it."""
    stem, _, ending = wanted.rpartition(".")
    # Hidden files (macOS's sidecars, ._NAME) and tests of the wanted file are no copies of it.
    words = re.escape(stem.removeprefix("0")).replace("_", r"[\W_]")
    pattern = rf"(?!\.)(.*[\W_])?(?<!test[_-])0?{words}{COPY}\.{ending}{MORE}"
    return f".{ending}" in name.lower() and re.fullmatch(pattern, name, re.IGNORECASE | re.DOTALL) is not None


def find_notebook(folder: Path, name: str) -> Path | None:
    """The course's notebook `name` in a folder, or the only copy of it; CourseError if there are several copies."""
    if (folder / name).exists():
        return folder / name
    copies = sorted(path for path in folder.glob("*.ipynb*") if is_copy(path.name, name))
    if len(copies) > 1:
        found = ", ".join(path.name for path in copies)
        raise CourseError(f"{folder.name}/ has copies of {name}: {found}. Rename the one to be graded to {name}.")
    return copies[0] if copies else None


def read_notebooks(folder: Path, names: tuple[str, ...] = NOTEBOOKS) -> list[NotebookNode]:
    """Read those of the named notebooks that are in a folder; further copies are ignored."""
    paths = [find_notebook(folder, name) for name in names]
    return [read_notebook(path) for path in paths if path]


def find_points(notebook: NotebookNode) -> dict[str, int]:
    """The points of each problem, as its heading says: `## Problem 2a · Freeze … (code, 10 points)`."""
    pattern = re.compile(rf"^{HEADING} · .*?(\d+) \w+\)$", re.M)
    return {problem: int(points) for cell in notebook.cells for problem, points in pattern.findall(cell.source)}


def read_points(folder: Path) -> dict[str, int]:
    """The points of all problems; CourseError if others are in the notebooks' headings than in the course's tables."""
    points = {problem: most for notebook in read_notebooks(folder) for problem, most in find_points(notebook).items()}
    if strange := points.keys() ^ {*FUNCTIONS, *TITLES}:
        raise CourseError(
            f"Problem {', '.join(sorted(strange))} needs a heading with its points in a notebook, and a line in a"
            " table: TITLES in helpers/answers.py if it is written, FUNCTIONS in helpers/recipe.py if it is code."
        )
    return points


def find_problem(cell: NotebookNode) -> str | None:
    """The written problem that a cell answers, according to its tags, or its id if an editor has dropped them."""
    tags = cell.metadata.get("tags", [])
    return next((p for p in TITLES if {"answer", f"problem-{p}"} <= set(tags) or cell.id == f"answer-{p}"), None)


def is_prompt(text: str) -> bool:
    """Whether the answer is missing: no words at all, or only the prompt, as nbgrader or an editor may format it."""
    words, *prompts = (re.findall(r"[^\W_]+", each.lower()) for each in (text, "", PROMPT, "YOUR ANSWER HERE"))
    return words in prompts


def find_answers(notebook: NotebookNode) -> list[tuple[str, NotebookNode]]:
    """The cells that answer a written problem, as pairs of problem and cell.

    Editors split cells, or drop tags and ids: all text between a question and the course's next heading counts.
    """
    found, problem, asked = [], None, None
    for cell in notebook.cells:
        problem = next(iter(re.findall(rf"^\s*{HEADING}", cell.source)), problem)
        asked = None if problem != asked or cell.source.lstrip().startswith(AFTER) else asked
        if answered := find_problem(cell) or (asked if cell.cell_type != "code" else None):
            found.append((answered, cell))
        elif ASKING in cell.source and problem in TITLES:
            asked = problem
    return found


def collect_answers(notebooks: list[NotebookNode]) -> Answers:
    """Find the written answers to every problem, leaving out unanswered prompts."""
    found: Answers = {problem: [] for problem in TITLES}
    for problem, cell in (each for notebook in notebooks for each in find_answers(notebook)):
        if not is_prompt(cell.source) or cell.get("attachments"):
            found[problem].append(cell)
    return found


def check_answered(found: Answers) -> None:
    """Raise CourseError, naming every written problem without an answer."""
    if unanswered := [problem for problem in TITLES if not found[problem]]:
        raise CourseError(
            f"No answer to problem {', '.join(unanswered)} in the notebooks. Write it in a Markdown cell right below"
            f" the question, in place of {PROMPT}, and save the notebook."
        )


def take_figures(cell: NotebookNode, stem: str) -> tuple[str, dict[str, bytes]]:
    """A cell's text, and the images pasted into it, as files `<stem>-1.png`, ..., to which the text now links."""
    text, figures = cell.source.strip(), {}

    def keep(kind: str, data: str) -> str:
        try:
            content = base64.b64decode(data)
        except ValueError:
            return "an-image-that-cannot-be-read"
        ending = next((each for each, start in IMAGES.items() if content.startswith(start)), None)
        ending = ending or mimetypes.guess_extension(kind, strict=False) or ".bin"
        figures[name := f"{stem}-{len(figures) + 1}{ending}"] = content
        return name

    attachments = cell.get("attachments", {})
    for name in sorted(attachments, key=len, reverse=True):  # Longest first: one name may begin with another.
        versions = sorted(attachments[name].items(), key=lambda version: not version[0].startswith("image/"))
        link = keep(*versions[0]) if versions else "an-image-that-is-empty"
        shown = text
        for spelt in (name, quote(name), quote(name, safe=URL), name.replace(" ", "%20")):
            shown = shown.replace(f"attachment:{spelt}", link)
        text = shown if shown != text else f"{text}\n\n![image]({link})"
    return DATA_IMAGE.sub(lambda found: keep(found[1], found[2]), text), figures


def find_lost_images(cell: NotebookNode) -> list[str]:
    """The names of images that an answer shows or links to but that are neither in the notebook nor on the web."""
    text, kept = take_figures(cell, "?")  # No file name begins like this.
    return [name for name in LOCAL_IMAGE.findall(CODE.sub("", text)) if name not in kept]


def export_answers(found: Answers, results: dict[str, Any], folder: str) -> tuple[str, dict[str, bytes]]:
    """`answers.md` as text, and its images by name; its links point into `folder`. Raises as `check_answered` does."""
    from helpers import report  # It imports pandas: a second that reading a notebook does not need.

    check_answered(found)
    tables = {"3a": report.validation_table, "3b": report.test_table}
    run, figures = results["provenance"], {}
    notes = [say for (what, own), say in STAND_INS.items() if run[what]["name"] == short_name(str(OFFLINE / own))]
    parts = ["# Answers", *notes, PUBLISHED, f"Measured: {report.describe_run(results)}"]
    for problem, title in TITLES.items():
        parts.append(f"## Problem {problem}: {title}")
        if problem in tables:
            parts += [report.to_markdown(tables[problem](results, published())), report.describe_source(results)]
        if problem == "3b":
            parts.append(report.describe_gap(results))
        for number, cell in enumerate(found[problem], start=1):
            text, pasted = take_figures(cell, f"{folder}/{problem}-{number}")
            parts.append(text)
            figures |= pasted
    # Links in the notebooks are relative to their own folder, those in answers.md to the one above.
    return "\n\n".join(parts).strip().replace("](../", "](") + "\n", figures


def write_answers(notebooks: Path, results: Path, out: Path) -> None:
    """Write `out`, and the images of the answers into a folder next to it."""
    found = collect_answers(read_notebooks(notebooks, (*NOTEBOOKS, LAB)))
    with expecting_a_search(str(results)):
        text, figures = export_answers(found, load_results(results), f"{out.stem}_files")
    for name, content in figures.items():
        write_atomically(out.parent / name, content)
    write_atomically(out, text)


def find_notebooks() -> Path:
    folder = project_folder() / "notebooks"
    if not any(folder.glob("*.ipynb")):
        raise CourseError(f"There are no notebooks in {folder}. Run this in the assignment's folder.")
    return folder
