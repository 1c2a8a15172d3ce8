"""The student version: the project without its solutions and answers, checked for leaks before it is written."""

import ast
import copy
import json
import os
import re
import shutil
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from helpers.answers import LAB, NOTEBOOKS, PROMPT, find_answers, find_problem, is_prompt, parse_notebook, read_points
from helpers.recipe import COURSE
from helpers.settings import CourseError, project_folder
from helpers.submit import FUNCTIONS, find_stubs

# The files that students get, as patterns in the project's folder. README.md is written from docs/student.md.
RELEASED = (
    *("LICENSE", "Makefile", "constraints.txt", "environment.yml", "pyproject.toml", ".gitattributes", ".gitignore"),
    *("helpers/*.py", "helpers/checks/*.py", "helpers/offline/**/*", "notebooks/*.ipynb"),
    *("tests/test_exercises.py", "tests/nbval_sanitize.cfg"),
    "results/lab_*.json",
)
# What may be in helpers/ and notebooks/: anything else might be somebody's solution, or notes.
KNOWN = {f"helpers/{name}.py" for name in ("__init__", *COURSE)} | {f"notebooks/{name}" for name in (*NOTEBOOKS, LAB)}
KNOWN |= {f"helpers/checks/{name}.py" for name in ("__init__", "describe", "inputs", "judge", "observe")}
LEFT_OUT = re.compile(r"(^|/)(\.(?!git)|__pycache__/)|\.part$")
README = "docs/student.md"
OWNER, NAME = b"YOUR-COURSE", b"bitfit-assignment"  # the repository's placeholder in the sources
EXERCISES = "helpers/exercises.py"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
LIKE_A_MARKER = re.compile(r"#\s*(BEGIN|END)[\s_-]+SOLUTION", re.I)
# Lines of the solutions that also occur in the course's own modules, and give nothing away.
ORDINARY_LINES = {
    "for name, parameter in model.named_parameters():",
    *("model = load_classifier(model_name)", "arguments = TrainingArguments("),
    *("num_train_epochs=4,", 'eval_strategy="epoch",', 'save_strategy="no",', 'report_to="none",'),
}
SHORTEST_SECRET = 16  # characters; a shorter line, such as `return model`, says too little


def write_release(folder: Path, source: Path | None = None, repository: str = "") -> str:
    """Write the student version into `folder`, which must be empty or not exist yet; returns a summary.

    `repository` (OWNER/NAME on GitHub) is the student version's place, for links in notebooks and README. Nothing is
    written if the source has an error, or if a line of a solution or answer would be released: CourseError names it.
    """
    if os.path.exists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise CourseError(f"{folder} already exists and is not an empty folder. Name another one, or remove it first.")
    files, secrets = build_release(source or project_folder(), repository)
    if leaks := find_leaks(files, secrets):
        raise CourseError("The student version would give solutions away; nothing was written.\n" + "\n".join(leaks))
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        for name, content in files.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_bytes(content)
        if folder.exists():
            folder.rmdir()
        os.replace(beside, folder)
    except OSError as error:
        raise CourseError(f"Could not write {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    kinds = Counter(re.sub("/.*", "/", name) for name in files)
    listed = ", ".join(f"{kind} ({count} files)" if kind.endswith("/") else kind for kind, count in kinds.items())
    said = [f"Wrote the student version to {folder}: {len(files)} files.", f"Released: {listed}."]
    if unnamed := sum(OWNER in content for content in files.values()):
        said.append(f"YOUR-COURSE is still in {unnamed} files: --repo OWNER/NAME replaces it with your repository.")
    said.append(f"None of the {len(secrets)} lines of solutions and answers is in it.")
    return "\n".join(said)


def build_release(source: Path, repository: str = "") -> tuple[dict[str, bytes], list[str]]:
    """Build the student version's files, by name, and the lines that must not occur in them."""
    if repository and not re.fullmatch(r"[\w-]+/(?!\.(git|\.)?$)[\w.-]+", repository, re.A):
        raise CourseError(f"{repository!r} is not OWNER/NAME, a place on GitHub such as ada/bitfit-course.")
    owner, _, place = repository.removesuffix(".git").partition("/")
    sources = find_sources(source)
    files, secrets, unmarked = {}, set(), read_points(source / "notebooks").keys() - FUNCTIONS.values()
    for name, path in sources.items():
        content, lines = path.read_bytes(), []
        if name == EXERCISES:
            content, lines = cut_solutions(content.decode())
        elif name.endswith(".ipynb"):
            notebook = parse_notebook(content, name)
            content, lines = clear_notebook(notebook)
            for problem, cell in find_answers(parse_notebook(content, name)):  # as the students' `submit` does
                if not is_prompt(cell.source):
                    raise CourseError(
                        f"{name}: because of its place, the cell that begins with {cell.source[:60]!r} counts as an"
                        f" answer to {problem}. Tag it `answer` and `problem-{problem}`, or put it before the question."
                        " If it begins the course's next section, add its heading to AFTER in helpers/answers.py."
                    )
            for cell in notebook.cells:
                cell.id, cell.metadata = "", {}  # as after some editors
            unmarked -= {problem for problem, _ in find_answers(notebook)}
        if repository and (name == "README.md" or name.endswith(".ipynb")):
            content = content.replace(NAME, place.encode()).replace(OWNER, owner.encode())
        files[name] = content
        secrets |= {line for line in lines if len(line) >= SHORTEST_SECRET}
    if unmarked:
        raise CourseError(
            f"No cell counts as the answer to {', '.join(sorted(unmarked))}: the question before it needs the words of"
            " ASKING in helpers/answers.py."
        )
    return files, sorted(secrets - ORDINARY_LINES)


def find_sources(source: Path) -> dict[str, Path]:
    """The released files: from their names to their paths."""
    found = {}
    for pattern in (README, *RELEASED):
        names = [path.relative_to(source).as_posix() for path in source.glob(pattern) if path.is_file()]
        names = [name for name in names if not LEFT_OUT.search(name)]
        if not names:
            raise CourseError(f"There is no {pattern} in {source}. Run this in the assignment's own folder.")
        for name in names:
            if name.startswith(("helpers/", "notebooks/")) and "/offline/" not in name and name not in KNOWN:
                raise CourseError(
                    f"{name} is not a file of the course. Move it out of the project, so that students do not get it;"
                    " or, if they should, add a module to COURSE in helpers/recipe.py, a notebook to NOTEBOOKS in"
                    " helpers/answers.py, anything else to KNOWN in instructor/release.py."
                )
        found |= {"README.md" if name == README else name: source / name for name in names}
    return dict(sorted(found.items()))


def cut_solutions(text: str) -> tuple[bytes, list[str]]:
    """Replace every solution by a stub; returns the file, and the solutions' lines, stripped.

    Raises CourseError if a marker is misspelt or misplaced, or if an exercise has none.
    """
    functions, lines, secrets = _parse(text), text.splitlines(), []
    marks = [number for number, line in enumerate(lines) if LIKE_A_MARKER.search(line)]
    for number, wanted in zip(marks, cycle((BEGIN, END)), strict=False):
        if (found := lines[number].strip()) != wanted:
            before = f" after line {marks[marks.index(number) - 1] + 1}" if number != marks[0] else ""
            raise CourseError(
                f"{EXERCISES}, line {number + 1}: found {found!r}, but{before} only {wanted!r} can be here."
            )
    if len(marks) % 2:
        raise CourseError(f"{EXERCISES}, line {marks[-1] + 1}: the solution that begins here never ends.")
    for begin, end in zip(marks[-2::-2], marks[-1::-2], strict=True):  # The last first: numbers stay right.
        name = next((node.name for node in functions if node.lineno <= begin < node.end_lineno), "")
        if name not in FUNCTIONS:
            raise CourseError(f"{EXERCISES}, line {begin + 1}: the solution is in none of the exercises.")
        secrets += [line.strip() for line in lines[begin + 1 : end]]
        stub = f'raise NotImplementedError("Problem {FUNCTIONS[name]}: write {name} in {EXERCISES}.")'
        lines[begin : end + 1] = [lines[begin].rstrip().replace(BEGIN, stub)]
    stubs = "\n".join(lines) + "\n"
    _parse(stubs, " without its solutions")
    if unmarked := [name for name in FUNCTIONS if not find_stubs(stubs).get(name)]:
        raise CourseError(f"{EXERCISES}: no solution markers in {', '.join(unmarked)}; unmarked, it would be released.")
    return stubs.encode(), secrets


def _parse(text: str, when: str = "") -> list[ast.FunctionDef]:
    try:
        return [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError as error:
        raise CourseError(f"{EXERCISES} does not compile{when}: {error.msg}, line {error.lineno}.") from None


def clear_notebook(notebook: NotebookNode, shown: str = "reference") -> tuple[bytes, list[str]]:
    """Make a file with prompts for answers, and with outputs only in cells tagged `shown`; also the answers' lines."""
    notebook, secrets = copy.deepcopy(notebook), []
    kept = [name for name in ("kernelspec", "language_info") if name in notebook.metadata]
    notebook.metadata = {name: notebook.metadata[name] for name in kept}
    for cell in notebook.cells:
        cell.metadata = {name: cell.metadata[name] for name in ("tags", "nbgrader") if name in cell.metadata}
        tags = cell.metadata.get("tags", [])
        if "answer" in tags or find_problem(cell):
            secrets += [line.strip() for line in cell.source.splitlines() if not is_prompt(cell.source)]
            cell.source = PROMPT
            cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = cell.outputs if shown in tags else []
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return (nbformat.writes(notebook) + "\n").encode(), secrets


def find_leaks(files: dict[str, bytes], secrets: list[str]) -> list[str]:
    """Describe every solution marker, and every line of a solution or an answer, in the released text files."""
    leaks = []
    for name, content in files.items():
        if b"\0" in content:  # a binary file
            continue
        text = content.decode(errors="replace")
        if name.endswith(".ipynb"):
            text = _join_texts(json.loads(text))
        if LIKE_A_MARKER.search(text):
            leaks.append(f"{name} has a solution marker; markers belong only in {EXERCISES}.")
        text = " ".join(text.split())
        found = [secret for secret in secrets if " ".join(secret.split()) in text]
        leaks += [f"{name} has this line of a solution or an answer: {secret}" for secret in found]
    return leaks


def _join_texts(value: Any) -> str:
    """All text in a JSON value; a cell's lines, stored as a list, become one text."""
    if isinstance(value, (list, dict)):
        return "".join(map(_join_texts, value.values() if isinstance(value, dict) else value))
    return str(value)
