"""The notebooks in nbgrader's hands: its own commands make the assignment and grade two students."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT, change_cell

from helpers.answers import PROMPT
from instructor.release import build_release
from instructor.sheet import AUTOMATIC, WRITTEN

pytest.importorskip("nbgrader", reason="nbgrader is not installed: it needs Python 3.11 and IPython 8")

pytestmark = pytest.mark.xdist_group("nbgrader")


def test_the_script_that_tags_the_notebooks_would_change_nothing(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "tag_notebooks.py", tmp_path / "scripts")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    subprocess.run([sys.executable, tmp_path / "scripts" / "tag_notebooks.py"], check=True)
    for path in NOTEBOOKS:
        assert (tmp_path / "notebooks" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course whose `source` is the student version; of the code where there are checks, those alone."""
    course = tmp_path_factory.mktemp("course")
    source = course / "source" / "bitfit"
    for name, content in build_release(ROOT)[0].items():
        if name.startswith(("helpers/", "notebooks/")):
            path = source / name.removeprefix("notebooks/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in (source / "01_bert_inputs.ipynb", source / "03_full_vs_bitfit.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        keep = re.compile("find_spec|checks")  # the bootstrap cell, and the checks
        notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "code" or keep.search(cell.source)]
        nbformat.write(notebook, path)
    shutil.copy(ROOT / "docs" / "nbgrader_config.py", course)
    run_nbgrader(course, "generate_assignment", "bitfit")
    return course


def run_nbgrader(course: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "PYTHONPATH"))}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # It calls alembic.
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    environment |= {name: str(course / name) for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def query(course: Path, question: str) -> list[tuple]:
    with sqlite3.connect(course / "gradebook.db") as database:
        return database.execute(question).fetchall()


def test_generate_assignment_takes_all_points_and_leaves_prompts(course):
    rows = query(course, "SELECT name, max_score FROM grade_cells JOIN base_cell ON grade_cells.id = base_cell.id")
    assert sorted((name.rpartition("-")[2], points) for name, points in rows) == sorted((AUTOMATIC | WRITTEN).items())
    for path in (course / "release" / "bitfit").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if "answer" in cell.metadata.get("tags", []):
                assert cell.source == PROMPT


@pytest.fixture(scope="module")
def graded(course):
    """Ann solved the code and answered problem 1b; Ben changed a check and a course file, and solved nothing."""
    students = {}
    for student, kept in (("ann", ("01", "03")), ("ben", ("03",))):
        folder = students[student] = course / "submitted" / student / "bitfit"
        shutil.copytree(course / "release" / "bitfit", folder)
        for path in folder.glob("*.ipynb"):
            if not path.name.startswith(kept):
                path.unlink()  # What is left holds all the checks; the rest would only take time.
    shutil.copy(ROOT / "helpers" / "exercises.py", students["ann"] / "helpers")
    first = students["ann"] / "01_bert_inputs.ipynb"
    first.write_text(first.read_text(encoding="utf-8").replace(PROMPT, "Ids are indices.", 1), encoding="utf-8")
    change_cell(students["ben"], "check-2a", source="print('Problem 2a: correct.')")
    (students["ben"] / "helpers" / "checks" / "__init__.py").write_text("problem_2b = problem_2c = print\n")
    run_nbgrader(course, "autograde", "bitfit")
    return course


def grades(course: Path, student: str) -> dict[str, tuple[float | None, bool]]:
    """From each problem to its automatic points and whether a person has to read it."""
    rows = query(
        course,
        "SELECT base_cell.name, auto_score, needs_manual_grade FROM grade JOIN base_cell ON cell_id = base_cell.id"
        " JOIN submitted_notebook ON grade.notebook_id = submitted_notebook.id JOIN submitted_assignment"
        f" ON submitted_notebook.assignment_id = submitted_assignment.id WHERE student_id = '{student}'",
    )
    return {name.rpartition("-")[2]: (points, bool(manual)) for name, points, manual in rows}


def test_autograde_gives_a_solved_submission_all_automatic_points_and_no_stderr(graded):
    found = grades(graded, "ann")
    assert {problem: found[problem] for problem in AUTOMATIC} == {p: (points, False) for p, points in AUTOMATIC.items()}
    assert found["1b"] == (None, True), "a written answer waits for a reader"
    assert found["3a"] == (0, False), "a prompt that nobody answered is worth nothing"
    for path in (graded / "autograded" / "ann" / "bitfit").glob("*.ipynb"):
        outputs = [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]
        assert outputs and not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]


def test_autograde_gives_nothing_for_stubs_nor_for_changed_checks(graded):
    found = grades(graded, "ben")
    assert {problem: found[problem][0] for problem in AUTOMATIC} == dict.fromkeys(AUTOMATIC, 0)
