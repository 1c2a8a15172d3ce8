"""The committed notebooks: executed, tagged, alike where they must be; nbval compares their outputs elsewhere."""

import re
import subprocess
import sys
from importlib.metadata import version

import nbformat
import pytest
from conftest import NOTEBOOKS, RESULTS, ROOT
from nbconvert import HTMLExporter

from helpers.answers import TITLES
from helpers.recipe import FUNCTIONS
from helpers.report import format_rate
from helpers.results import best_run, load_results
from instructor.grade import read_rubric
from instructor.sheet import AUTOMATIC, WRITTEN


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


BOOTSTRAP = tagged(nbformat.read(NOTEBOOKS[0], as_version=4), "bootstrap")[0].source


def test_is_valid_and_executed_from_top_to_bottom_without_errors(notebook):
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_starts_with_the_same_bootstrap_cell_run_in_the_quick_profile(notebook):
    (bootstrap,) = tagged(notebook, "bootstrap")
    assert bootstrap is code_cells(notebook)[0] and bootstrap.source == BOOTSTRAP
    assert bootstrap.outputs[0].text == "profile quick · model offline checkpoint · data offline reviews\n"
    assert len(BOOTSTRAP.splitlines()) < 10
    assert f'"-b", "v{version("bitfit-assignment")}"' in BOOTSTRAP, "Colab gets the package's own version"


def test_every_picture_is_described_for_those_who_cannot_see_it(notebook):
    drawn = [cell for cell in code_cells(notebook) if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    texts = [cell.metadata.get("alt", "") for cell in drawn]
    assert all(len(text.split()) >= 8 for text in texts), [cell.id for cell in drawn]
    # nbconvert's other template for pages, `lab`, shows no description, nor does JupyterLab.
    html, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert all(f'alt="{text}"' in html for text in texts)


@pytest.mark.parametrize("options", [(), ("-I", "-S")], ids=["installed", "without the packages"])
def test_bootstrap_installs_nothing_outside_colab(tmp_path, options):
    command = [sys.executable, *options, "-c", BOOTSTRAP]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = f"run: {sys.executable} -m pip install -e ..\n" if options else ""
    assert done.stderr.endswith(said) and bool(done.stderr) == bool(options) != done.stdout.startswith("profile ")
    assert not list(tmp_path.iterdir())


def test_code_cells_are_short_and_without_magics(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*[%!]", cell.source, re.M), cell.source


def read_cells(*numbers):
    paths = [path for path in NOTEBOOKS if not numbers or path.name[:2] in numbers]
    return [cell for path in paths for cell in nbformat.read(path, as_version=4).cells]


def test_the_problems_and_their_points_are_all_there():
    """The headings have them; the guides repeat them, and the rubric divides them."""
    points = AUTOMATIC | WRITTEN
    for name in ("README.md", "docs/student.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert {problem: int(most) for problem, most in re.findall(r"\b(\d\w) \((\d+)", text)} == points, name
        assert f"\n{sum(points.values())} points, and a lab" in text, name
    for problem, most in WRITTEN.items():
        part = read_rubric().partition(f"## {problem} ")[2].partition("\n## ")[0]
        assert sum(map(float, re.findall(r"\| ([\d.]+) \|$", part, re.M))) == most, problem


def test_a_check_is_the_first_cell_that_runs_a_students_function():
    # So a mistake is met as the check's sentence, and not as a traceback of the cell that only shows something.
    sources = [cell.source for cell in read_cells() if cell.cell_type == "code"]
    for problem, functions in FUNCTIONS.items():
        (check,) = [source for source in sources if source.startswith(f"checks.problem_{problem}(")]
        assert "importlib.reload(exercises)" in check
        for function in functions:
            assert function in check
            assert next(source for source in sources if re.search(rf"\b{function}\b", source)) == check


def test_nothing_before_the_hand_in_gives_a_solution_away():
    cells = [cell for cell in read_cells("01", "02", "03", "04") if "answer" not in cell.metadata.get("tags", [])]
    text = "\n".join(cell.source for cell in cells)
    for given_away in (".map(", "apply_policy", "GridSampler", "NopPruner", "maximize", 'eval_strategy="epoch"'):
        assert given_away not in text
    assert "submit(" in text


def test_every_written_problem_has_an_answer_cell_within_its_own_limits():
    found = {}
    limits = None
    for cell in read_cells("01", "02", "03", "04"):
        asked = re.findall(r"\b(\d+)\s+to\s+(\d+)\s+words", cell.source) if cell.cell_type == "markdown" else []
        limits = [int(number) for number in asked[-1]] if asked else limits
        if "answer" in cell.metadata.get("tags", []):
            (problem,) = (tag for tag in cell.metadata["tags"] if tag.startswith("problem-"))
            words = len(re.sub(r"\]\([^)]*\)", "]", cell.source).split())
            assert problem not in found and limits[0] <= words <= limits[1], f"{problem}: {words} words, {limits}"
            found[problem] = limits
    assert set(found) == {f"problem-{problem}" for problem in TITLES}


def test_the_lab_quotes_the_figures_of_the_full_size_search():
    results = load_results(RESULTS / "imdb.json")
    text = "\n".join(cell.source for cell in read_cells("05"))
    for name, policy in (("Without BitFit", "full"), ("With BitFit", "bitfit")):
        best = best_run(results, policy)
        cell = f"{format_rate(best['learning_rate'])}, batch size {best['batch_size']}"
        figures = f"{best['validation_accuracy']:.4f} | {best['test']['accuracy']:.4f}"
        assert f"| {name} | {cell} | {figures} |" in text
