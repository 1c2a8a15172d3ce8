"""The committed notebooks: executed, tagged, alike where they must be; nbval compares their outputs elsewhere."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from helpers.answers import TITLES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
POINTS = {"1b": 10, "1c": 10, "1d": 10, "2a": 10, "2b": 20, "2c": 20, "3a": 10, "3b": 10}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_there_are_five_in_order():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


def test_is_valid_and_executed_from_top_to_bottom_without_errors(notebook):
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_starts_with_the_same_bootstrap_cell(notebook):
    (bootstrap,) = tagged(notebook, "bootstrap")
    assert bootstrap is code_cells(notebook)[0]
    assert len(bootstrap.source.splitlines()) < 10
    first = nbformat.read(NOTEBOOKS[0], as_version=4)
    assert bootstrap.source == tagged(first, "bootstrap")[0].source


def test_colab_gets_the_version_that_the_package_has(notebook):
    (bootstrap,) = tagged(notebook, "bootstrap")
    assert f'"-b", "v{version("bitfit-assignment")}"' in bootstrap.source


def test_every_picture_is_described_for_those_who_cannot_see_it(notebook):
    drawn = [cell for cell in code_cells(notebook) if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    texts = [cell.metadata.get("alt", "") for cell in drawn]
    assert all(len(text.split()) >= 8 for text in texts), [cell.id for cell in drawn]
    # nbconvert's other template for pages, `lab`, shows no description, nor does JupyterLab.
    html, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert all(f'alt="{text}"' in html for text in texts)


def run_bootstrap(folder, *options):
    source = tagged(nbformat.read(NOTEBOOKS[0], as_version=4), "bootstrap")[0].source
    return subprocess.run([sys.executable, *options, "-c", source], cwd=folder, capture_output=True, text=True)


def test_bootstrap_installs_nothing_where_the_course_is_installed(tmp_path):
    done = run_bootstrap(tmp_path)
    assert done.stdout.startswith("profile ") and not done.stderr
    assert not list(tmp_path.iterdir())


def test_bootstrap_names_the_missing_command_outside_colab(tmp_path):
    done = run_bootstrap(tmp_path, "-S")  # without the installed packages
    assert done.stderr.endswith(f"run: {sys.executable} -m pip install -e ..\n")
    assert not list(tmp_path.iterdir())


def test_code_cells_are_short_and_without_magics(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*[%!]", cell.source, re.M), cell.source


def test_names_no_path_of_any_machine(notebook):
    text = nbformat.writes(notebook)
    assert not re.search(r"/(home|root|tmp|work|Users|content|farm)/|[A-Z]:\\\\", text)


def test_was_executed_in_the_quick_profile(notebook):
    bootstrap = tagged(notebook, "bootstrap")[0]
    assert bootstrap.outputs[0].text == "profile quick · model offline checkpoint · data offline reviews\n"


def test_the_problems_and_their_points_are_all_there():
    headings = {}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for problem, points in re.findall(r"^## Problem (\w+) · .*?(\d+) points\)$", cell.source, re.M):
                    assert problem not in headings, f"problem {problem} has two headings"
                    headings[problem] = int(points)
    assert headings == POINTS and sum(headings.values()) == 100


def test_every_code_problem_ends_in_its_check():
    sources = "\n".join(
        cell.source for path in NOTEBOOKS for cell in code_cells(nbformat.read(path, as_version=4))
    ).splitlines()
    for problem in ("1d", "2a", "2b", "2c"):
        assert len([line for line in sources if line.startswith(f"checks.problem_{problem}(")]) == 1
    assert any("submit(" in line for line in sources)


def test_every_written_problem_has_an_answer_cell():
    found = [
        tags
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        if "answer" in (tags := cell.metadata.get("tags", []))
    ]
    assert all(any(f"problem-{problem}" in tags for tags in found) for problem in TITLES)
