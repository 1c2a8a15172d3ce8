"""The hand-in: check all that it needs, list every gap, and pack it into one zip."""

import ast
import io
import os
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers import answers, recipe
from helpers.answers import NOTEBOOKS, read_file
from helpers.results import (
    EXERCISES,
    choose_best,
    defined_by,
    expecting_a_search,
    fingerprint_code,
    load_results,
    select_runs,
)
from helpers.settings import PROFILES, CourseError, Settings, project_folder, write_atomically

# Maps the functions that a student writes to their problems.
FUNCTIONS = {name: problem for problem, names in recipe.FUNCTIONS.items() for name in names}
# The errors that reading a student's code may raise; it is never run.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


@contextmanager
def noting(gaps: list[str]) -> Iterator[None]:
    """Add a CourseError's message to the gaps, so that the rest is checked as well."""
    try:
        yield
    except CourseError as error:
        gaps.append(str(error))


def make_zip(files: dict[str, bytes], programs: Container[str] = ()) -> bytes:
    """A zip of the files, with `programs` executable. The same content gives the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # without a timestamp
            entry.external_attr, entry.create_system = (0o100755 if name in programs else 0o100644) << 16, 3
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def submit(notebooks: str | Path | None = None, out: str | Path | None = None) -> None:
    """Check the hand-in and write `submission.zip` into the project's folder, or print what is missing.

    `notebooks` is the folder where they are saved, if not the project's own. For use in a cell, so it raises no errors.
    """
    try:
        write_hand_in(notebooks, out)
    except CourseError as error:
        print(f"error: {error}")


def write_hand_in(notebooks: str | Path | None, out: str | Path | None, incomplete: bool = False) -> None:
    """Like `submit`, but raises CourseError if something is missing; `incomplete` writes the zip all the same."""
    files, gaps = collect_hand_in(notebooks)
    for gap in gaps:
        print(f"MISSING  {gap}")
    if gaps and not incomplete:
        raise CourseError("No zip was written. Add what is missing, save all notebooks, and run this again.")
    out = Path(os.path.expanduser(out)) if out else project_folder() / "submission.zip"
    write_atomically(out, make_zip(files))
    verdict = "Without what is missing" if gaps else "Everything is there"
    print(f"{verdict}: {out.name} holds {len(files)} files and is ready to be handed in.")


def collect_hand_in(notebooks: str | Path | None = None) -> tuple[dict[str, bytes], list[str]]:
    """The zip's files by name, and a sentence for everything that is missing; the student's code is not run."""
    files, gaps, read, solved = {}, [], [], False
    own = project_folder() / "notebooks"
    folder = Path(os.path.expanduser(notebooks or (own if any(own.glob("*.ipynb")) else Path.cwd())))
    for name in NOTEBOOKS:
        with noting(gaps):
            path = answers.find_notebook(folder, name) or folder / name
            files[f"notebooks/{name}"] = content = read_file(path, "Save it there, or give its folder.")
            read.append(answers.parse_notebook(content, path.name))
            if len(content) > answers.MAX_SIZE:
                raise CourseError(
                    f"notebooks/{path.name} has {len(content) / 2**20:.0f} MiB, more than the grader reads"
                    f" ({answers.MAX_SIZE / 2**20:.0f}). Print and show less in its cells, run them again, and save."
                )
            _check_cells(path.name, read[-1])
    found = answers.collect_answers(read)
    with noting(gaps):
        answers.check_answered(found)
    for problem, cells in found.items():
        if images := [image for cell in cells for image in answers.find_lost_images(cell)]:
            gaps.append(
                f"the answer to problem {problem} shows {', '.join(images)}, which would not be handed in. Instead,"
                " paste the image into the cell, and save."
            )
    with noting(gaps):
        files["exercises.py"] = code = read_file(EXERCISES)
        check_code(code)
        solved = True
    with noting(gaps), expecting_a_search("results.json"):
        settings = Settings()  # The assignment's grid, even where COURSE_PROFILE names a corner of it.
        paths = [settings.build / profile / "results.json" for profile in PROFILES]
        path = next((path for path in paths if path.exists()), paths[0])  # the quick profile's, else another's
        results = load_results(path)
        files["results.json"] = path.read_bytes()
        check_results(results, settings)
        if all(found.values()):
            text, figures = answers.export_answers(found, results, "answers_files")
            files |= {"answers.md": text.encode(), **figures}
        if solved and not is_made_with(results, EXERCISES):
            raise CourseError(
                "results.json: it was made with other functions than those now in exercises.py. Run the search of"
                " notebook 03 again, or undo your changes."
            )
    return files, gaps


def _check_cells(name: str, notebook: NotebookNode) -> None:
    """CourseError if a cell has not run to its end, except for the hand-in's own, which runs before the last save."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    # A stray key may have turned an answer into a code cell; running it would fail.
    cells = [cell for cell in cells if not (answers.find_problem(cell) or "hand-in" in cell.metadata.get("tags", []))]
    failed = [cell for cell in cells if any(output.output_type == "error" for output in cell.outputs)]
    if waiting := [cell for cell in cells if cell.execution_count is None or cell in failed]:
        first = waiting[0].source.strip().splitlines()[0]
        raise CourseError(
            f"notebooks/{name}: {len(waiting)} of {len(cells)} code cells have not been run, or ended with an error, or"
            f" ran after the last save; the first begins with `{first:.60}`. Run all cells and save."
        )


def check_code(content: bytes) -> None:
    """CourseError naming the functions that are missing or not written yet; the code is read, not run."""
    try:
        stubs = find_stubs(content)
    except UNREADABLE as error:
        where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        why = getattr(error, "msg", error)
        raise CourseError(f"exercises.py{where}: it does not compile ({why}). Fix it and save the file.") from error
    if missing := [f"{name} (problem {problem})" for name, problem in FUNCTIONS.items() if stubs.get(name, True)]:
        raise CourseError(f"exercises.py: missing (at the top level), or not written yet: {', '.join(missing)}.")
    if said := recipe.explain_imports(content):
        raise CourseError(said)


def find_stubs(code: bytes | str) -> dict[str, bool]:
    """For every name that the code itself defines, whether it is a function not written yet; may raise SyntaxError.

    Such a function raises NotImplementedError before it returns anything; functions defined inside it do not count.
    """
    stubs = {}
    for statement in ast.parse(code).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):  # From a file that is not handed in.
            continue
        body = [each for each in getattr(statement, "body", []) if not isinstance(each, ast.FunctionDef)]
        ends = (each for each in body if isinstance(each, ast.Raise) or ast.Return in map(type, ast.walk(each)))
        is_stub = isinstance(first := next(ends, None), ast.Raise) and "NotImplementedError" in ast.dump(first)
        stubs |= dict.fromkeys(defined_by(statement), is_stub)
    return stubs


def check_results(results: dict[str, Any], settings: Settings) -> None:
    """CourseError if a policy's grid is incomplete or its best run has not been tested; runs may have been pruned."""
    for policy in ("full", "bitfit"):
        runs = select_runs(results, policy=policy, seed=settings.seed, epochs=settings.epochs)
        cells = {(run["learning_rate"], run["batch_size"]) for run in runs}
        if not cells >= set(settings.cells) or "test" not in (choose_best(runs) or {}):
            raise CourseError(
                f"results.json: it does not contain all {len(settings.cells)} cells and the test of policy {policy}."
                " Run the search of notebook 03 to its end."
            )


def is_made_with(results: dict[str, Any], exercises: Path) -> bool:
    """Whether the functions in this file that training uses are those that made the results."""
    try:
        return results["provenance"]["code"] == fingerprint_code(exercises)
    except UNREADABLE:
        return False
