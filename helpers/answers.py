"""`answers.md`: the cells tagged `answer`, in the problems' order, with the tables made from a results file."""

from pathlib import Path
from typing import Any

import nbformat
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from helpers import report
from helpers.results import load_results, published
from helpers.settings import OFFLINE, CourseError, Settings, project_folder, short_name, write_atomically

TITLES = {
    "1b": "Understand BERT Inputs",
    "1c": "Understand BERT Hyperparameters",
    "3a": "Train Models",
    "3b": "Test Models and Report Results",
}
PROMPT = "*Your answer here.*"
# An answer cell with one of these is not answered; the last is what nbgrader writes.
PROMPTS = ("", PROMPT, "YOUR ANSWER HERE")
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


def export_answers(notebooks: Path, results: dict[str, Any]) -> str:
    """Return `answers.md` as text; raises CourseError naming every written problem without an answer."""
    answers = collect_answers(notebooks)
    open_problems = [problem for problem in TITLES if not answers[problem]]
    if open_problems:
        raise CourseError(
            f"No answer to problem {', '.join(open_problems)} in {notebooks.name}/: write it in the cell tagged"
            f" `answer` and `problem-{open_problems[0]}`, and save the notebook."
        )
    tables = {"3a": report.validation_table, "3b": report.test_table}
    cells = [new_markdown_cell("# Answers"), new_markdown_cell(_header(results))]
    for problem, title in TITLES.items():
        cells.append(new_markdown_cell(f"## Problem {problem}: {title}"))
        if problem in tables:
            cells.append(new_markdown_cell(report.to_markdown(tables[problem](results, published()))))
        if problem == "3b":
            cells.append(new_markdown_cell(report.describe_gap(results)))
        cells += answers[problem]
    text, _ = MarkdownExporter().from_notebook_node(new_notebook(cells=cells))
    # The notebooks name files from their own folder, answers.md from the one above.
    return text.strip().replace("](../", "](") + "\n"


def collect_answers(notebooks: Path) -> dict[str, list[NotebookNode]]:
    """Find the written answers of every problem, leaving out prompts that nobody has answered."""
    answers: dict[str, list[NotebookNode]] = {problem: [] for problem in TITLES}
    for path in sorted(notebooks.glob("*.ipynb")):
        for cell in read_notebook(path).cells:
            tags = cell.metadata.get("tags", [])
            for problem in TITLES:
                written = cell.source.strip() not in PROMPTS
                if cell.cell_type == "markdown" and written and {"answer", f"problem-{problem}"} <= set(tags):
                    answers[problem].append(new_markdown_cell(cell.source.strip()))
    return answers


def read_notebook(path: Path) -> NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except Exception as error:  # What a broken file makes the library raise has no common kind.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise CourseError(
            f"{path.name} is not a readable notebook ({first}). Restore it from your last copy."
        ) from error


def find_notebooks() -> Path:
    folder = project_folder() / "notebooks"
    if not any(folder.glob("*.ipynb")):
        raise CourseError(f"There are no notebooks in {folder}. Run this in the assignment's folder.")
    return folder


def find_results(settings: Settings) -> Path:
    """The committed results of the profile where there are some, else those of the last run."""
    committed = project_folder() / "results" / f"{settings.profile}.json"
    return committed if committed.exists() else settings.folder / "results.json"


def write_answers(notebooks: Path, results: Path, out: Path) -> None:
    write_atomically(out, export_answers(notebooks, load_results(results)))


def _header(results: dict[str, Any]) -> str:
    run = results["provenance"]
    note = ""
    if run["profile"] == "quick":
        note = f"{QUICK_NOTE}\n\n"
    elif run["model"]["name"] == short_name(str(OFFLINE / "checkpoint")):
        note = f"{STAND_IN_NOTE}\n\n"
    return f"{note}{PUBLISHED_NOTE}\n\nMeasured: {report.describe_run(results)}"
