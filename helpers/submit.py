"""The hand-in: look at everything it needs, name every gap, and pack it into one zip."""

import ast
import io
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers import answers, recipe
from helpers.answers import NOTEBOOKS
from helpers.results import choose_best, fingerprint_code, load_results, select_runs
from helpers.settings import PROFILES, CourseError, Settings, load_settings, project_folder

# From the functions that a student writes to their problems.
FUNCTIONS = {name: problem for problem, names in recipe.FUNCTIONS.items() for name in names}
EXERCISES = Path(__file__).with_name("exercises.py")
LOCAL_IMAGE = re.compile(r"!\[[^\]]*\]\((?!https?:|data:|attachment:)([^)\s]+)")


@dataclass
class HandIn:
    """The zip's content by name, and a sentence for everything that is missing."""

    files: dict[str, bytes] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """List the files with their sizes, then the gaps."""
        lines = [f"  {name:36} {len(content) / 1024:8,.1f} KiB" for name, content in sorted(self.files.items())]
        return "\n".join([*lines, *(f"MISSING  {gap}" for gap in self.gaps)])

    def pack(self, out: Path) -> None:
        """Write the zip; the same content gives the same bytes."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(self.files.items()):
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr, entry.create_system = 0o644 << 16, 3
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)
        beside = out.with_name(f"{out.name}.{os.getpid()}.part")
        try:
            beside.write_bytes(packed.getvalue())
            os.replace(beside, out)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise CourseError(f"Could not write {out}: {error.strerror}. Name another file with --out.") from error


def submit(notebooks: str | Path | None = None, out: str | Path | None = None) -> None:
    """Verify the hand-in and write `submission.zip` into the project's folder, or print what is missing.

    `notebooks` is the folder where they are saved, if it is not the project's. Nothing is raised: this is for a cell.
    """
    out = Path(out) if out else project_folder() / "submission.zip"
    try:
        hand_in = collect_hand_in(notebooks)
        if not hand_in.gaps:
            hand_in.pack(out)
    except CourseError as error:
        print(f"error: {error}")
        return
    if hand_in.gaps:
        print("\n".join(f"MISSING  {gap}" for gap in hand_in.gaps))
        print("No zip is written yet. Do what is missing, save all notebooks, and run this cell again.")
    else:
        print(f"Everything is there: {out.name} holds {len(hand_in.files)} files and is ready to be handed in.")


def collect_hand_in(notebooks: str | Path | None = None, settings: Settings | None = None) -> HandIn:
    """Look at the saved notebooks, exercises.py and the results; no code of the student's is run."""
    hand_in = HandIn()
    found = _add_notebooks(hand_in, Path(notebooks) if notebooks else _find_folder())
    code = _read(hand_in, EXERCISES, "exercises.py", "Restore it from your last copy.")
    code_gaps = [] if code is None else find_code_gaps(code)
    hand_in.gaps += code_gaps
    results = _add_results(hand_in, settings or load_settings(), solved=code is not None and not code_gaps)
    if results is not None and all(found.values()):
        try:
            text, figures = answers.export_answers(found, results, "answers_files")
            hand_in.files |= {"answers.md": text.encode(), **figures}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            hand_in.gaps.append(f"results.json: it is damaged ({error!r}). Move it aside and run notebook 03 again.")
    return hand_in


def _find_folder() -> Path:
    """The project's notebooks, or the working folder where they lie there."""
    folders = (project_folder() / "notebooks", Path.cwd())
    return next((folder for folder in folders if any(answers.find_notebook(folder, n) for n in NOTEBOOKS)), folders[0])


def _add_notebooks(hand_in: HandIn, folder: Path) -> answers.Answers:
    """Take what is saved, and say what is not run, has failed or is not answered; returns the answers."""
    notebooks = []
    for name in NOTEBOOKS:
        try:
            path = answers.find_notebook(folder, name) or folder / name
            content = _read(hand_in, path, f"notebooks/{name}", "Save it there, or name its folder.")
            if content is not None:
                notebooks.append(answers.parse_notebook(content, path.name))
                hand_in.gaps += _find_cell_gaps(path.name, notebooks[-1])
        except CourseError as error:
            hand_in.gaps.append(str(error))
    found = answers.collect_answers(notebooks)
    for problem, cells in found.items():
        if not cells and notebooks:
            hand_in.gaps.append(
                f"the answer to problem {problem}. Write it in the cell tagged `answer` and `problem-{problem}`, and"
                " save."
            )
        hand_in.gaps += [
            f"the answer to problem {problem} shows the file {image}, which is not handed in. Paste the image into the"
            " cell in its place, and save."
            for cell in cells
            for image in LOCAL_IMAGE.findall(cell.source)
        ]
    return found


def _find_cell_gaps(name: str, notebook: NotebookNode) -> list[str]:
    """The hand-in's own cell is left out: it runs before its notebook is saved."""
    cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.source.strip() and "hand-in" not in cell.metadata.get("tags", [])
    ]
    gaps = []
    waiting = [cell for cell in cells if cell.execution_count is None]
    if waiting:
        gaps.append(
            f"notebooks/{name}: {len(waiting)} of {len(cells)} code cells have not been run, or the notebook was not"
            f" saved since; the first begins with `{_first_line(waiting[0])}`. Run all cells and save."
        )
    failed = [(cell, output) for cell in cells for output in cell.outputs if output.output_type == "error"]
    return gaps + [
        f"notebooks/{name}: the cell `{_first_line(cell)}` ended with {output.get('ename', 'an error')}. Mend what it"
        " names, run all cells again and save."
        for cell, output in failed
    ]


def _first_line(cell: NotebookNode) -> str:
    return cell.source.strip().splitlines()[0][:60]


def find_code_gaps(content: bytes) -> list[str]:
    """Name the functions that are missing or not written yet; the code is read, not run."""
    try:
        functions = find_stubs(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        return [
            f"exercises.py{where}: it does not compile ({getattr(error, 'msg', error)}). Mend it and save the file."
        ]
    missing = {name: problem for name, problem in FUNCTIONS.items() if functions.get(name, True)}
    return [
        f"exercises.py: {name} (problem {problem}) is not written yet."
        if name in functions
        else f"exercises.py: there is no function {name} (problem {problem}). Restore it."
        for name, problem in missing.items()
    ]


def find_stubs(code: bytes | str) -> dict[str, bool]:
    """From the name of every function to whether it still raises NotImplementedError; SyntaxError if it is no code."""
    return {
        function.name: any(
            isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node) for node in ast.walk(function)
        )
        for function in ast.parse(code).body
        if isinstance(function, ast.FunctionDef)
    }


def _add_results(hand_in: HandIn, settings: Settings, solved: bool) -> dict[str, Any] | None:
    """Take the quick profile's results, else another's; returns them if they are whole."""
    paths = [settings.build / profile / "results.json" for profile in PROFILES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        hand_in.gaps.append(
            "results.json: nothing has been trained. Run notebook 03, or `python -m helpers assignment`."
        )
        return None
    if _read(hand_in, path, "results.json", "Run notebook 03 again.") is None:
        return None
    try:
        results = load_results(path)
    except CourseError as error:
        hand_in.gaps.append(str(error))
        return None
    gaps = find_result_gaps(results, settings)
    hand_in.gaps += gaps
    if not gaps and solved and results.get("provenance", {}).get("code") != fingerprint_code(EXERCISES):
        hand_in.gaps.append(
            "results.json: it was made with other functions than those in the present exercises.py. Run the search of"
            " notebook 03 again, or take your changes back."
        )
    return None if gaps else results


def find_result_gaps(results: dict[str, Any], settings: Settings) -> list[str]:
    """Name the policies whose grid is not complete or whose best run has not been tested; a run may be pruned."""
    gaps = []
    for policy in ("full", "bitfit"):
        try:
            runs = select_runs(results, policy=policy, seed=settings.seed)
            best = choose_best(runs)
            complete = {(run["learning_rate"], run["batch_size"]) for run in runs} >= set(settings.cells)
            complete = complete and best["epochs"] == settings.epochs and 0 <= best["test"]["accuracy"] <= 1
        except (KeyError, TypeError, AttributeError, IndexError):
            complete = False
        if not complete:
            gaps.append(
                f"results.json: it does not hold all {len(settings.cells)} cells, and the test, of the policy {policy}."
                " Run the search of notebook 03 to its end."
            )
    return gaps


def _read(hand_in: HandIn, path: Path, name: str, what_to_do: str) -> bytes | None:
    try:
        hand_in.files[name] = path.read_bytes()
        return hand_in.files[name]
    except FileNotFoundError:
        hand_in.gaps.append(f"{name}: it is not in {path.parent.name}/. {what_to_do}")
    except OSError as error:
        hand_in.gaps.append(f"{name}: it cannot be read ({error.strerror}). {what_to_do}")
    return None
