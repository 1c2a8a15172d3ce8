"""The student version: the project without its solutions and answers, checked before anybody sees it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from helpers.answers import PROMPT, read_notebook
from helpers.settings import CourseError, project_folder
from helpers.submit import FUNCTIONS, find_stubs

# All that a student gets, as patterns in the project's folder. README.md is written from docs/student.md.
RELEASED = (
    *("LICENSE", "Makefile", "constraints.txt", "environment.yml", "pyproject.toml", ".gitattributes", ".gitignore"),
    *("helpers/*.py", "helpers/checks/*.py", "helpers/offline/**/*", "notebooks/*.ipynb"),
    *("tests/conftest.py", "tests/test_exercises.py", "tests/nbval_sanitize.cfg"),
    "results/lab_*.json",
)
LEFT_OUT = re.compile(r"(^|/)(\.(?!git)|__pycache__/)|\.part$")
README = "docs/student.md"
OWNER, NAME = "YOUR-COURSE", "bitfit-assignment"  # the repository's place, as the sources have it
EXERCISES = "helpers/exercises.py"
MARKER = re.compile(r"^\s*### (BEGIN|END) SOLUTION$")
LIKE_A_MARKER = re.compile(r"#\s*(BEGIN|END)[\s_-]+SOLUTION", re.I)
# Lines of the solution which the course's own modules have too, and which give nothing away there.
ORDINARY_LINES = (
    "for name, parameter in model.named_parameters():",
    *("model = load_classifier(model_name)", "arguments = TrainingArguments("),
    *("num_train_epochs=4,", 'eval_strategy="epoch",', 'save_strategy="no",', 'report_to="none",'),
)
SHORTEST_SECRET = 16  # characters; a shorter line, such as `return model`, says too little
TIMESTAMP = 315_532_800  # 1 January 1980: the same source gives the same files


def write_release(folder: Path, source: Path | None = None, repository: str = "") -> str:
    """Write the student version into `folder`, which is empty or not there yet; returns a summary.

    `repository` (OWNER/NAME on GitHub) is where notebooks and README will say that the student version is.
    Nothing is left behind when the source is at fault, or when a line of a solution or answer, or a stub that passes
    its check, is found in what was written: CourseError names it.
    """
    source = source or project_folder()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CourseError(f"{folder} is there already and not an empty folder. Name another one, or remove it first.")
    files, secrets = build_release(source, repository)
    leaks = find_leaks(files, secrets)
    if leaks:
        raise CourseError("The student version would give solutions away; nothing was written.\n" + "\n".join(leaks))
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        _write(beside, files)
        messages = check_stubs(beside)
        _set_times(beside)
        if folder.exists():
            folder.rmdir()
        os.replace(beside, folder)
    except OSError as error:
        raise CourseError(f"Could not write {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    size = sum(map(len, files.values())) / 2**20
    kinds = Counter(name.partition("/")[0] + "/" if "/" in name else name for name in sorted(files))
    listed = ", ".join(f"{kind} ({count} files)" if kind.endswith("/") else kind for kind, count in kinds.items())
    unnamed = sum(OWNER.encode() in content for content in files.values())
    return "\n".join(
        [
            f"Wrote the student version to {folder}: {len(files)} files, {size:.1f} MiB.",
            f"Released: {listed}.",
            *[f"{OWNER} still stands in {unnamed} files: --repo OWNER/NAME writes your repository there."]
            * (unnamed > 0),
            f"None of the {len(secrets)} lines of solutions and answers is in it. Its checks say:",
            *(f"  {message}" for message in messages),
        ]
    )


def build_release(source: Path, repository: str = "") -> tuple[dict[str, bytes], list[str]]:
    """Make the student version's files by name, and the lines that must not be found in them."""
    if repository and not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise CourseError(
            f"{repository!r} is not OWNER/NAME, a repository's place on GitHub such as ada/bitfit-course."
        )
    files, secrets = {}, []
    for name, path in _find_sources(source):
        if name == EXERCISES:
            text, lines = cut_solutions(path.read_text(encoding="utf-8"))
            files[name] = text.encode()
        elif name.endswith(".ipynb"):
            notebook = read_notebook(path)
            lines = clear_notebook(notebook)
            files[name] = (nbformat.writes(notebook) + "\n").encode()
        else:
            files[name], lines = path.read_bytes(), []
        if repository and (name == "README.md" or name.endswith(".ipynb")):
            files[name] = name_repository(files[name].decode(), repository).encode()
        secrets += [line for line in lines if len(line) >= SHORTEST_SECRET]
    return files, sorted(set(secrets))


def name_repository(text: str, repository: str) -> str:
    """Write a repository's place, and the folder that git makes of it, where the sources have placeholders."""
    owner, name = repository.split("/")
    return text.replace(OWNER, owner).replace(NAME, name.removesuffix(".git"))


def _find_sources(source: Path) -> Iterator[tuple[str, Path]]:
    wanted = [("README.md", source / README)]
    for pattern in RELEASED:
        paths = [path for path in sorted(source.glob(pattern)) if path.is_file()]
        found = [(path.relative_to(source).as_posix(), path) for path in paths]
        found = [(name, path) for name, path in found if not LEFT_OUT.search(name)]
        if not found:
            raise CourseError(f"There is no {pattern} in {source}. Run this in the assignment's own folder.")
        wanted += found
    if not wanted[0][1].is_file():
        raise CourseError(f"There is no {README} in {source}: it becomes the student version's README.md.")
    return iter(sorted(wanted))


def cut_solutions(text: str, name: str = EXERCISES) -> tuple[str, list[str]]:
    """Put a stub in the place of every solution; returns the text and the solutions' lines, stripped.

    Raises CourseError where markers are nested, unbalanced or misspelt, stand outside an exercise, or where an exercise
    has none.
    """
    try:
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError as error:
        raise CourseError(
            f"{name}, line {error.lineno}: {error.msg}. A solution that does not compile is none."
        ) from None
    kept, secrets, begun = [], [], 0
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}, line {number}"
        marker = MARKER.match(line)
        if marker is None:
            if LIKE_A_MARKER.search(line):
                raise CourseError(f"{where}: {line.strip()!r} is not '### BEGIN SOLUTION' or '### END SOLUTION'.")
            (secrets if begun else kept).append(line.strip() if begun else line)
        elif marker[1] == "BEGIN":
            if begun:
                raise CourseError(f"{where}: a solution begins inside the one that began in line {begun}.")
            begun = number
            inside = [node.name for node in functions if node.lineno < number <= node.end_lineno]
            if not inside or inside[0] not in FUNCTIONS:
                raise CourseError(f"{where}: the solution is in none of the exercises {', '.join(FUNCTIONS)}.")
            message = f"Problem {FUNCTIONS[inside[0]]}: write {inside[0]} in {name}."
            kept.append(f'{line[: len(line) - len(line.lstrip())]}raise NotImplementedError("{message}")')
        elif not begun:
            raise CourseError(f"{where}: a solution ends that never began.")
        else:
            begun = 0
    if begun:
        raise CourseError(f"{name}, line {begun}: the solution that begins here never ends.")
    stubs = "\n".join(kept) + "\n"
    try:
        found = find_stubs(stubs)
    except SyntaxError as error:
        raise CourseError(f"{name} does not compile without its solutions: {error.msg}, line {error.lineno}.") from None
    unmarked = [function for function in FUNCTIONS if not found.get(function)]
    if unmarked:
        raise CourseError(f"{name}: no solution markers in {', '.join(unmarked)}; its solution would be given away.")
    return stubs, secrets


def clear_notebook(notebook: NotebookNode) -> list[str]:
    """Turn answers into prompts and clear what running left, except in reference cells; returns the answers' lines."""
    secrets = []
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    for cell in notebook.cells:
        cell.metadata = {name: cell.metadata[name] for name in ("tags", "nbgrader") if name in cell.metadata}
        tags = cell.metadata.get("tags", [])
        if "answer" in tags:
            secrets += [line.strip() for line in cell.source.splitlines()]
            cell.source = PROMPT if cell.cell_type == "markdown" else f"# {PROMPT.strip('*')}"
            cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = cell.outputs if "reference" in tags else []
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return secrets


def find_leaks(files: dict[str, bytes], secrets: list[str]) -> list[str]:
    """Name every released text file in which a solution marker, or a line of a solution or an answer, is found."""
    leaks = []
    for name, content in files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        if name.endswith(".ipynb"):
            text = "\n".join(_strings(json.loads(text)))
        if LIKE_A_MARKER.search(text):
            leaks.append(f"{name} has a solution marker; markers belong into {EXERCISES} only.")
        text = " ".join(text.split())
        for secret in secrets:
            tolerated = secret in ORDINARY_LINES and name.startswith("helpers/") and name != EXERCISES
            if " ".join(secret.split()) in text and not tolerated:
                leaks.append(f"{name} has this line of a solution or an answer: {secret}")
    return leaks


def _strings(value: Any) -> Iterator[str]:
    """All texts of a JSON value; the lines of a cell, which are a list, come as one text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield "".join(value)
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


CHECK_STUBS = """
import inspect, json, os, sys
import helpers
from helpers import checks, exercises
assert os.path.samefile(os.path.dirname(helpers.__file__), "helpers"), helpers.__file__
functions = json.loads(sys.argv[1])
said = {}
for name in functions:
    stub = getattr(exercises, name)
    try:
        stub(*[None] * len(inspect.signature(stub).parameters))
    except NotImplementedError as error:
        said[name] = str(error)
for problem in sorted(set(functions.values())):
    stubs = [getattr(exercises, name) for name in functions if functions[name] == problem]
    try:
        getattr(checks, "problem_" + problem)(*stubs)
    except checks.CheckFailed as error:
        said[problem] = str(error)
print(json.dumps(said))
"""


def check_stubs(folder: Path) -> list[str]:
    """Run every stub and every check in the written version, in a process of its own; returns the checks' messages.

    Raises CourseError where a stub or its check does not fail with a message that names its problem.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
        environment |= {"PYTHONPATH": str(folder.absolute()), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"COURSE_BUILD": elsewhere, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", CHECK_STUBS, json.dumps(FUNCTIONS)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
    if done.returncode:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
        raise CourseError(f"The student version's checks do not run: {last}")
    said = json.loads(done.stdout.splitlines()[-1])
    wrong = [name for name, problem in FUNCTIONS.items() if not said.get(name, "").startswith(f"Problem {problem}: ")]
    problems = sorted(set(FUNCTIONS.values()))
    wrong += [f"check {p}" for p in problems if not said.get(p, "").startswith(f"Problem {p}: ")]
    if wrong:
        raise CourseError(f"In the student version these do not fail and name their problem: {', '.join(wrong)}.")
    return [said[problem] for problem in problems]


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)


def _set_times(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (TIMESTAMP, TIMESTAMP))
