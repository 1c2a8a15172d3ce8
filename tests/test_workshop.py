"""Hostile code and what it earns, what is judged and what is noted, and that the solution is nowhere to be found."""

import ctypes
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hostile import ALL, CODE, LOOKS_FOR_AN_INSTALLED_SOLUTION, ROOT, SOLUTION, STUBS, mistaken

from helpers.answers import NOTEBOOKS
from helpers.recipe import COURSE
from helpers.settings import CourseError
from instructor import sandbox, verdict
from instructor.forgery import find_forgery
from instructor.grade import Grader
from instructor.limits import MEBI, Limits, Outcome
from instructor.verdict import judge_outcome
from instructor.workshop import Workshop, can_everybody_read, copy_course

SMALL = Limits(180, 5, memory=900 * MEBI, processes=24, disk=100 * MEBI, files=5000, result=4 * MEBI)
pytestmark = pytest.mark.xdist_group("workshop")

try:
    sandbox.find_degree()
except OSError as error:
    pytest.skip(f"untrusted code cannot be kept apart here: {error}", allow_module_level=True)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


@pytest.mark.parametrize("name", CODE)
def test_hostile_code_gets_the_points_it_deserves(workshop: Workshop, tmp_path: Path, name: str) -> None:
    if name == "reaches outside" and workshop.degree == "user":  # It ends its own supervisor there.
        pytest.skip("needs namespaces")
    if os.uname().machine == "x86_64":  # A key in the grader's session, which no submission may find: add_key.
        assert ctypes.CDLL(None).syscall(248, b"user", b"mark", b"x", 1, -3) > 0
    marked = tmp_path / "marked"
    marked.mkdir()
    marked.chmod(0o777)
    code, points, says = CODE[name]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        for word, value in (("ROOT", ROOT), ("MARKED", marked), ("PORT", listener.getsockname()[1])):
            code = code.replace(word, str(value))
        before = set(os.listdir(workshop.folder))
        graded = workshop.grade_code(code.encode(), SMALL)
        assert graded["graded"] and graded["passed"] == {problem: bool(points[problem]) for problem in ALL}, graded
        assert all(words in graded["said"][problem] for problem, words in says.items()), graded
        assert graded["broken"] == [problem for problem, said in graded["said"].items() if "stopped: " in said], graded
        if workshop.degree == "namespaces":
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert not os.listdir(marked) and set(os.listdir(workshop.folder)) == before


def test_after_all_of_them_a_right_submission_gets_all_points(workshop: Workshop) -> None:
    counted = "    assert sum(p.numel() for p in model.parameters() if p.requires_grad) in (3_074, 4_386_178)\n"
    code = SOLUTION.replace("    return model", f"{counted}    return model")
    elsewhere = code.replace('report_to="none"', 'report_to="wandb", bf16=True, tf32=True')  # as on Colab
    graded = workshop.grade_code(elsewhere.encode(), SMALL)
    assert all(graded["passed"].values()) and graded["notes"] == [] and graded["graded"]
    assert all("correct" in said for said in graded["said"].values())
    assert graded["cpu_seconds"] > 0
    assert 50 * MEBI < graded["peak_memory"] < 1024 * MEBI  # 730 with PyTorch's build for Nvidia GPUs


def test_a_mistake_costs_its_own_problem_s_points_and_forgery_a_note(workshop: Workshop) -> None:
    """The other two mistakes: see `test_grade`."""
    forged, wrong = "import gc, os\nos.chdir('/')\n", ("1d", "2b")
    graded = workshop.grade_code((forged + mistaken(*wrong)).encode(), SMALL)
    assert [note.rpartition("line ")[2] for note in graded["notes"]] == ["1", "2"]
    assert graded["passed"] == {problem: problem not in wrong for problem in ALL}
    for problem in wrong:
        assert graded["said"][problem].startswith(f"Problem {problem}: ") and "Hint: " in graded["said"][problem]


def test_every_submission_gets_inputs_of_its_own_and_its_answers_fit_no_other(workshop: Workshop) -> None:
    folders = [workshop.make_folder() for _ in range(3)]
    first, second, again = (workshop.prepare(seed, folder) for seed, folder in zip((1, 2, 1), folders, strict=True))
    limits = replace(SMALL, cpu_seconds=60)
    job = {"exercises": SOLUTION, "given": first["given"], "limits": asdict(limits)}
    _, told = workshop.run(job, limits, (workshop.blind, folders[0]))
    for problem in ALL:
        assert judge_outcome(problem, told[problem], first["expected"][problem], SMALL)[1]
        assert not judge_outcome(problem, told[problem], second["expected"][problem], SMALL)[1]
        assert problem in ("2a", "2b") or again["expected"][problem] == first["expected"][problem]


def test_praise_is_one_line_of_visible_signs(monkeypatch) -> None:
    monkeypatch.setattr(verdict, "judge", lambda *a: "correct. You gave: x\n# Full marks\33[2J" + "y" * 10**5)
    said, passed = judge_outcome("2b", Outcome(result="{}"), {}, SMALL)
    assert passed and said.isprintable() and len(said) == 1000


@pytest.mark.parametrize(
    "result",
    ["", "x", "{}", "\n", "{", "null", "[]", '"correct"', "\0" * 99, "[" * 10**6, "9" * 10**5]
    + [
        '{"records": NaN, "stopped": null}',
        '{"records": [1e999], "stopped": null}',
        '{"records": [], "stopped": "I am right. correct."}',
    ],
)
def test_what_is_no_observation_earns_nothing(result: str) -> None:
    for problem in ALL:
        said, passed = judge_outcome(problem, Outcome(result=result), {}, SMALL)
        assert not passed and said.startswith(f"Problem {problem}: ")


@pytest.mark.parametrize(
    ("reason", "words"),
    [("time", "within 180 s"), ("memory", "900 MiB"), ("processes", "24 processes"), ("disk", "100 MiB")]
    + [("cpu", "5 s of CPU"), ("result", "returned more than 4 MiB"), ("sandbox", "could not be set up")],
)
def test_a_broken_limit_is_named(reason: str, words: str) -> None:
    assert words in judge_outcome("2a", Outcome(reason=reason), {}, SMALL)[0]


def test_a_sandbox_that_fails_is_no_verdict(workshop: Workshop, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda *a, **k: Outcome(reason="sandbox", output="no room"))
    graded = workshop.grade_code(SOLUTION.encode(), SMALL)
    assert not graded["graded"] and not any(graded["passed"].values()) and "no room" in graded["said"]["1d"]


def test_a_workshop_that_was_stopped_says_nothing_of_anybody(workshop: Workshop, monkeypatch) -> None:
    with Workshop() as stopped:
        monkeypatch.setattr(stopped, "prepare", workshop.prepare)
        threading.Timer(3, stopped.stop).start()
        started = time.monotonic()
        with pytest.raises(CourseError, match="stopped"):
            stopped.grade_code(b"import time\ntime.sleep(100)", SMALL)
        assert time.monotonic() - started < 30
        with pytest.raises(CourseError, match="stopped"):
            stopped.grade_code(SOLUTION.encode(), SMALL)
    assert not stopped.folder.exists()


def test_a_sandbox_has_the_course_s_own_files_alone(monkeypatch, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("offline"))
    for name in ("exercises.py.orig", "exercises.py~", "solution.py", "mine/exercises.py"):
        (tmp_path / "helpers" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "helpers" / name).write_text(SOLUTION)
    monkeypatch.setattr("instructor.workshop.PROJECT", tmp_path)
    copy_course(tmp_path / "copy", "inputs.py")
    found = {path.name for path in (tmp_path / "copy" / "helpers").iterdir()}
    assert found == {"__init__.py", "checks", *(f"{name}.py" for name in COURSE)} - {
        "checks.py",
        "exercises.py",
        "offline.py",
    }


@pytest.mark.parametrize(
    ("code", "line", "what"),
    [
        ("import ctypes", 1, "ctypes"),
        ("from inspect import stack", 1, "inspect"),
        ("import sys\nsys._getframe(1)", 2, "_getframe"),
        ("import sys\nfor each in sys.modules:\n    pass", 2, "sys.modules"),
        ("from os import write as w", 1, "write"),
        ("import os\nx = os\nx._exit(0)", 3, "_exit"),
        ("from os import *", 1, "os.*"),
        ("import helpers.checks.inputs", 1, "checks"),
        ("def f():\n    return f.__globals__", 2, "__globals__"),
        ("x = getattr(1, '_getframe')", 1, "_getframe"),
        ("__import__('os')", 1, "__import__"),
        ("import os\nx = getattr(os, '_ex' + 'it')", 2, "getattr"),
        ("import sys as s\ns.exc_info()", 1, "sys as s"),
        ("import torch\ntorch.sys.modules", 2, "sys"),
        ("from .models import *", 1, "helpers.models.*"),
    ],
)
def test_what_looks_like_forgery_is_noted_with_its_line(code: str, line: int, what: str) -> None:
    assert any(f"uses {what}," in note and note.endswith(f"line {line}") for note in find_forgery(code.encode()))


@pytest.mark.parametrize(
    "code",
    [
        SOLUTION,
        STUBS,
        "import os, sys, torch\nos.environ['A'] = os.path.join('b')\nprint()",
        "from transformers import *\ndef f(model):\n    'Train it. See the paper.'\n    return model.eval().modules()",
        "import torch.nn as nn\nfrom os import path\nfrom helpers import models\nmodels.load_classifier",
        "class A:\n    def __init__(self, x):\n        super().__init__()\n        self._x = getattr(x, 'config')",
        "if __name__ == '__main__':\n    data.remove_columns('__index_level_0__')\n    print(data.__len__(), '_')",
        "import glob, shutil\ndef f(model, name):\n    return f'{model}_bitfit', name.endswith('_bias'), '____'",
    ],
)
def test_honest_code_is_not_noted(code: str) -> None:
    assert find_forgery(code.encode()) == []


def test_no_more_is_noted_than_can_be_read() -> None:
    assert len(find_forgery(("import " + "\ufdf2" * 80_000).encode())[0]) < 200  # Four letters each, to Python.
    notes = find_forgery("\n".join(f"import a{number}" for number in range(16_000)).encode())
    assert len(notes) == 41 and notes[0].endswith("line 1") and notes[-1].endswith("15,960 more such things")


@pytest.mark.parametrize("source", [b"def (", b"\xff\0", b"(" * 10**5, b"-" * 10**5 + b"1", b"x\0y"])
def test_code_that_cannot_be_read_is_said_to_be_that(workshop: Workshop, source: bytes) -> None:
    (note,) = find_forgery(source)
    assert "cannot be read" in note
    if source == b"x\0y":  # It has no line to name.
        graded = workshop.grade_code(source, SMALL)
        assert graded["graded"] and not any(graded["passed"].values()) and "None" not in str(graded["said"])


def test_what_knows_the_expectations_is_not_in_the_sandbox(workshop: Workshop) -> None:
    names = {path.relative_to(workshop.blind).as_posix() for path in workshop.blind.rglob("*.py")}
    assert "helpers/checks/observe.py" in names and not [name for name in names if name.startswith("instructor")]
    assert not names & {"helpers/exercises.py", "helpers/checks/inputs.py", "helpers/checks/judge.py"}


def test_a_solution_installed_without_e_is_not_found(tmp_path: Path) -> None:
    """The course in the site-packages of the very Python that grades, links to an environment made from another."""
    (tmp_path / "disk").mkdir()
    (home := tmp_path / "home").symlink_to(tmp_path / "disk")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "course"], check=True)
    (venv := home / "venv").symlink_to("course")
    between, python = tmp_path / "between" / "bin" / "python", venv / "bin" / "python"
    between.parent.mkdir(parents=True)
    between.symlink_to(python.resolve())
    python.unlink()
    python.symlink_to(between)
    (packages,) = venv.glob("lib/python3*/site-packages")
    shutil.copytree(ROOT / "helpers", packages / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    clean = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    look = "import importlib.util; print(importlib.util.find_spec('helpers.exercises').origin)"
    found = subprocess.run([python, "-c", look], capture_output=True, text=True, cwd=tmp_path, env=clean, check=True)
    assert found.stdout.startswith(str(packages))

    (venv / "class" / "bob").mkdir(parents=True)  # Others' work in what the sandbox shows, and Python in others' work.
    look = f"import glob\nassert not glob.glob('{venv}/class/*')\n"
    (tmp_path / "ann.py").write_text(look + LOOKS_FOR_AN_INSTALLED_SOLUTION)
    grade = (
        "import json, sys; from pathlib import Path; from instructor.workshop import Workshop\n"
        "with Workshop(private=(Path(sys.prefix, 'class'), Path(sys.prefix).parent)) as workshop:\n"
        "    print(json.dumps(workshop.grade_code(open(sys.argv[1], 'rb').read()) | {'why': workshop.isolation}))"
    )
    command = [python, "-c", grade, tmp_path / "ann.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=clean | {"PYTHONPATH": str(ROOT)}, check=True
    )
    graded = json.loads(done.stdout)
    if any("SUBMITTED CODE CAN READ" in reason for reason in graded["why"]):
        return  # The degree `user` cannot keep it away, and says so.
    assert graded["graded"] and "TypeError" in graded["said"]["1d"] and not any(graded["passed"].values()), graded


def test_what_everybody_can_read_is_noticed(tmp_path: Path, monkeypatch) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "exercises.py").write_text("x")
    (folder / "exercises.py").chmod(0o644)
    assert can_everybody_read(folder / "exercises.py")
    monkeypatch.setattr(sandbox, "find_degree", lambda wanted: ("user", []))
    with Workshop(private=(folder, tmp_path / "gone")) as workshop:
        (said,) = workshop.isolation
        assert f"{folder}" in said and "gone" not in said
    folder.chmod(0o700)
    assert not can_everybody_read(folder / "exercises.py") and not can_everybody_read(tmp_path / "gone")
    shutil.rmtree(folder)


def test_notebooks_are_executed_again_and_what_stops_is_named(workshop, tmp_path, monkeypatch):
    """Meanwhile no student's code lies where another's could look, as it could in the degree `user`."""
    notebooks, run, found = Grader(workshop, tmp_path).notebooks, sandbox.run, []

    def look_and_run(*given, **options):
        found.extend(workshop.folder.rglob("exercises.py"))
        return run(*given, **options)

    monkeypatch.setattr(sandbox, "run", look_and_run)
    first = json.loads(notebooks[NOTEBOOKS[0]])
    first["cells"] = [cell for cell in first["cells"] if cell["id"] in ("bootstrap", "load-exercises", "check-1d")]
    given = {NOTEBOOKS[0]: json.dumps(first), NOTEBOOKS[1]: notebooks[NOTEBOOKS[1]]}
    stopped, whole = workshop.run_notebooks(STUBS.encode(), given)["lines"]
    cells, _, reason = stopped.partition(", the first with ")
    assert cells == f"{NOTEBOOKS[0]}: 2 of 3 code cells ran; stopped with an error: [3]", "as Jupyter counts"
    assert reason.startswith("CheckFailed: Problem 1d: preprocess_dataset is not written yet."), reason
    assert re.fullmatch(rf"{NOTEBOOKS[1]}: (\d+) of \1 code cells ran", whole), whole
    assert not found
