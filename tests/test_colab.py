"""Every notebook as on Colab: its versions, an empty folder, and the package from git by the bootstrap cell alone.

This installs an environment and takes minutes, so it runs only when COURSE_COLAB=1 is set, as `make matrix` does.
Colab itself is not here: `google.colab` is an empty package, and git fetches the working tree in place of the address
in the bootstrap cell.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nox.project import load_toml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOTSTRAP = next(cell.source for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if cell.id == "bootstrap")
NOT_ON_COLAB = {"optuna"}
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": "."}}).execute()
print(nbformat.writes(notebook))
"""
EDIT = """
from pathlib import Path
file = Path("bitfit-assignment/helpers/exercises.py")
file.write_text(file.read_text().replace('padding="max_length"', "padding=True"))
"""
CHECK = """
import importlib
from helpers import checks, exercises
try:
    checks.problem_1d(importlib.reload(exercises).preprocess_dataset)
except checks.CheckFailed as failure:
    print(failure)
"""
DRIVE = """
import os
os.makedirs("drive", exist_ok=True)
os.chdir("drive")
"""

pytestmark = [
    pytest.mark.skipif(os.environ.get("COURSE_COLAB") != "1", reason="takes minutes: set COURSE_COLAB=1 to run it"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.xdist_group("colab"),
]


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def execute(python: Path, path: Path, folder: Path, **options) -> nbformat.NotebookNode:
    """Execute a notebook by another Python, in a folder in which it need not be saved."""
    return nbformat.reads(run(python, "-c", EXECUTE, path.absolute(), cwd=folder, **options), as_version=4)


class Colab:
    """A virtual environment with Colab's packages, an empty working folder, and the course in a git repository."""

    def __init__(self, folder: Path):
        self.folder, self.content = folder, folder / "content"
        self.python = folder / "venv" / "bin" / "python"
        self.content.mkdir(parents=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "PYTHONPATH"))
        }
        self.environment |= {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "IPYTHONDIR": str(folder / "ipython"),
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "COURSE_PROFILE": "grade",  # a corner of the grid
            "COURSE_PROGRESS": "plain",
        }
        self._install()
        self._publish()
        self.before = self.versions()

    def _install(self) -> None:
        project = load_toml(ROOT / "pyproject.toml")["project"]
        wanted = [line for line in project["dependencies"] if Requirement(line).name not in NOT_ON_COLAB]
        run(sys.executable, "-m", "venv", self.python.parents[1])
        self.pip("install", "--quiet", "-c", ROOT / "constraints-colab.txt", *wanted)
        (packages,) = self.python.parents[1].glob("lib/python*/site-packages")
        (packages / "google" / "colab").mkdir(parents=True)
        (packages / "google" / "colab" / "__init__.py").touch()
        startup = self.folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "00-colab.py").write_text("import google.colab\n")

    def _publish(self) -> None:
        """Let git fetch the working tree wherever it is asked for the address of the bootstrap cell."""
        ((tag, address),) = re.findall(r'"-b", "(.+?)", "(https://.+?)"', BOOTSTRAP)
        repository = self.folder / "published"
        ignored = shutil.ignore_patterns(
            ".git", ".venv", ".nox", "build", "__pycache__", "*.egg-info", "*.part", ".*_cache"
        )
        shutil.copytree(ROOT, repository, ignore=ignored)
        (self.folder / "gitconfig").write_text(
            f'[user]\nname = course\nemail = course@localhost\n[url "{repository.as_uri()}"]\ninsteadOf = {address}\n'
        )
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "The course"], ["tag", tag]):
            run("git", "-C", repository, *command, env=self.environment)

    def pip(self, *arguments: str | Path) -> str:
        return run(self.python, "-m", "pip", *arguments, env=self.environment, cwd=self.content)

    def versions(self) -> dict[str, str]:
        return {found["name"]: found["version"] for found in json.loads(self.pip("list", "--format", "json"))}

    def execute(self, path: Path) -> nbformat.NotebookNode:
        return execute(self.python, path, self.content, env=self.environment)

    def run_cells(self, *sources: str) -> list[str]:
        """Execute these cells as a notebook; returns what each output of the second and later ones says."""
        path = self.folder / "cells.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources))), path)
        return outputs(self.execute(path), "stdout")


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Colab:
    return Colab(tmp_path_factory.mktemp("colab"))


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output.text for cell in cells[1:] for output in cell.outputs if output.get("name") == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_first_cell_to_last_without_a_warning(colab, path):
    assert outputs(colab.execute(path), "stderr") == []


def test_what_colab_had_is_still_there_in_the_same_versions(colab):
    after = colab.versions()
    assert {name: after.get(name) for name in colab.before} == colab.before
    assert after.keys() > NOT_ON_COLAB


def test_a_student_edits_the_exercises_in_the_working_folder(colab):
    before, after = colab.run_cells(BOOTSTRAP, CHECK, EDIT, CHECK)
    assert "Problem 1d: correct" in before
    assert "expected 512" in after


def test_what_is_in_a_students_drive_outlives_the_machine(colab):
    colab.pip("uninstall", "--quiet", "--yes", "bitfit-assignment")
    colab.run_cells(DRIVE, BOOTSTRAP, EDIT)
    colab.pip("uninstall", "--quiet", "--yes", "bitfit-assignment")
    assert "expected 512" in colab.run_cells(DRIVE, BOOTSTRAP, CHECK)[-1]
    folder = colab.run_cells(DRIVE, BOOTSTRAP, "print(settings.folder)")[-1]
    assert folder.strip() == str(colab.content / "drive" / "build" / "grade")
