"""The hand-in: every gap is named, all at once; the zip holds what was verified, and is the same each time."""

import json
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, change_cell

from helpers import answers, exercises, recipe, submit
from helpers.__main__ import main
from helpers.results import best_run, fingerprint_code

CONTENT = ["answers.md", "exercises.py", *(f"notebooks/{name}" for name in submit.NOTEBOOKS), "results.json"]
_, SECOND, THIRD, _ = submit.NOTEBOOKS
ERROR = [nbformat.v4.new_output("error", ename="CheckFailed", evalue="", traceback=[])]
RESULTS = "build/quick/results.json"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A complete project to spoil: notebooks, exercises.py, and results that belong to it."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "helpers" / "exercises.py", tmp_path)
    (tmp_path / "build" / "quick").mkdir(parents=True)
    results = json.loads((ROOT / "results/quick.json").read_text())
    results["provenance"]["code"] = fingerprint_code()
    (tmp_path / RESULTS).write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "EXERCISES", tmp_path / "exercises.py")
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("COURSE_PROFILE", "grade")  # A corner of the grid is not the assignment, whatever it says.
    return tmp_path


# Each of these gives a function that does something to a project.
def cell(cell_id, **changes):
    return lambda project: change_cell(project / "notebooks", cell_id, **changes)


def results(change):
    def spoil(project):
        found = json.loads((project / RESULTS).read_text())
        change(found)
        (project / RESULTS).write_text(json.dumps(found))

    return spoil


def drop_runs(**fields):
    return results(lambda r: r.update(runs=[run for run in r["runs"] if not fields.items() <= run.items()]))


def best(**changes):
    """Change the best run of the policy full."""
    return results(lambda r: best_run(r, "full").update(changes))


def code(old, new):
    def spoil(project):
        path = project / "exercises.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return spoil


def importing(line):
    return code("import numpy as np\n", f"{line}\nimport numpy as np\n")


def copy(*names):
    def spoil(project):
        for name in names:
            shutil.copy(project / "notebooks" / SECOND, project / "notebooks" / name)

    return spoil


def last_code_cell():
    cells = nbformat.read(ROOT / "notebooks" / THIRD, as_version=4).cells
    return [cell.id for cell in cells if cell.cell_type == "code"][-1]


def prune(r):
    chosen = [best_run(r, policy) for policy in ("full", "bitfit")]
    for run in r["runs"]:
        if run not in chosen:
            run["history"] = run["history"][:1]


def remove_second(project):
    (project / "notebooks" / SECOND).unlink()


def enlarge(project):
    path = project / "notebooks" / THIRD
    path.write_bytes(path.read_bytes() + b" " * 33 * 2**20)


# What is done to the project, and words of each gap that is then named.
SPOILERS = {
    "notebook gone": ([remove_second], [SECOND, "1c"]),
    "notebook cut short": ([lambda p: (p / "notebooks" / SECOND).write_text("{")], ["readable", "1c"]),
    "two copies": ([copy(f"Copy 1 of {SECOND}", f"Copy 2 of {SECOND}"), remove_second], ["Rename the one", "1c"]),
    "answer not written": ([cell("answer-1b", source=answers.PROMPT)], ["in place of *Your answer"]),
    "an image stays behind": ([cell("answer-1b", source="![this](mine.png).")], ["mine.png, which would"]),
    "cell not run": ([cell(last_code_cell(), execution_count=None)], ["code cells have not been run"]),
    "a notebook larger than is graded": ([enlarge], [f"{THIRD} has 33 MiB"]),
    "check failed": ([cell("check-2a", outputs=ERROR)], ["checks.problem_2a"]),
    "code with a syntax error": ([code("return model\n", "return (\n")], ["does not compile"]),
    "code gone": ([lambda p: (p / "exercises.py").unlink()], ["exercises.py"]),
    "function renamed": ([code("def init_tester", "def tester")], ["init_tester (problem 2b)"]),
    "stub left": ([code("    model = load_", "    raise NotImplementedError\n    model = load_")], ["init_model (pro"]),
    "code beside exercises.py": ([importing("import re\nfrom .mine import clean")], ["imports helpers.mine, which"]),
    "code beside the notebooks": ([importing("import os, mine as own")], ["imports mine, which"]),
    "a package of others": ([importing("from evaluate import load")], ["imports evaluate, which"]),
    "nothing trained": ([lambda p: shutil.rmtree(p / "build")], ["There is no results file"]),
    "results cut short": ([lambda p: (p / RESULTS).write_text("{")], ["results.json cannot be read"]),
    "a cell missing": ([drop_runs(policy="full", learning_rate=3e-5, batch_size=8)], ["policy full"]),
    "an accuracy of 0": ([best(test={"accuracy": 0, "n": 9})], ["damaged"]),
    "results of other code": ([results(lambda r: r["provenance"].update(code="0" * 16))], ["other functions"]),
    "a function of the training changed": ([code('padding="max_length"', "padding=True")], ["other functions"]),
}
LAST = "args=arguments, compute_metrics=compute_metrics)\n"  # of init_tester
HARMLESS = {
    "nothing": lambda project: None,
    "a function that training never reads changed": code('"n_trials": 20', '"n_trials": 21'),
    "a pruned search": results(prune),
    "the stub's last line left": code(LAST, f"{LAST}    raise NotImplementedError\n"),
    "an answer that a key made code": cell("answer-3a", cell_type="code", outputs=ERROR, execution_count=None),
    "the hand-in's own cell, which is running": cell("hand-in-check", execution_count=None, outputs=ERROR),
    "copies and sidecars": copy("02_hyperparameters-Copy1.ipynb", f"Copy of {SECOND}", f"._{THIRD}"),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_gap_is_named_and_nothing_else_is(project, spoiler):
    spoilers, words = SPOILERS[spoiler]
    for spoil in spoilers:
        spoil(project)
    _, gaps = submit.collect_hand_in()
    assert len(gaps) == len(words), gaps
    assert all(word in gap for gap, word in zip(gaps, words, strict=True)), gaps


@pytest.mark.parametrize("change", HARMLESS)
def test_what_does_no_harm_is_no_gap_and_all_files_are_as_they_were(project, change):
    HARMLESS[change](project)
    files, gaps = submit.collect_hand_in()
    assert gaps == [] and sorted(files) == CONTENT
    assert "## Problem 1b" in files.pop("answers.md").decode()
    assert files.pop("results.json") == (project / RESULTS).read_bytes()
    assert files == {name: (project / name).read_bytes() for name in files}


@pytest.mark.parametrize(
    ("body", "is_stub"),
    [
        ("if x:\n  return 1\n STUB", False),
        ("if x:\n  STUB\n return 1", False),
        ("def inner():\n  return 1\n STUB", True),
        ("'A text.'\n if x:\n  y = 1\n STUB", True),
        ("STUB\n return 1", True),
    ],
)
def test_a_function_is_a_stub_that_may_return_nothing_before_it_says_so(body, is_stub):
    code = f"from mine import other\ndef function(x):\n {body}"
    code = code.replace("STUB", "raise NotImplementedError('Write it.')")
    assert submit.find_stubs(code) == {"function": is_stub}


def test_imports_of_the_course_s_packages_and_those_that_may_fail_are_no_gap():
    code = "import PIL, sklearn.metrics, os.path\nfrom . import models\nfrom helpers.data import load_reviews\n"
    code += "try:\n    import evaluate\nexcept ImportError:\n    pass\nif __name__ == '__main__':\n    import peft\n"
    assert recipe.find_imports(code) == [] and all(map(find_spec, recipe.PACKAGES))


def test_another_profile_s_results_are_taken_where_quick_has_none(project):
    results(lambda r: r["provenance"].update(profile="full"))(project)
    (project / "build" / "quick").rename(project / "build" / "full")
    files, gaps = submit.collect_hand_in()
    assert gaps == [] and json.loads(files["results.json"])["provenance"]["profile"] == "full"


@pytest.mark.parametrize("place", ["named from home", "working folder", "Colab's copies"])
def test_notebooks_may_lie_elsewhere(project, place, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    folder = project / "drive"
    (project / "notebooks").rename(folder)
    for path in folder.iterdir():
        if place == "working folder":
            path.rename(project / path.name)
        elif place == "Colab's copies":
            path.rename(folder / f"Copy of {path.name}")
    files, gaps = submit.collect_hand_in({"working folder": None, "named from home": "~/drive"}.get(place, folder))
    assert gaps == [] and sorted(files) == CONTENT


def test_an_image_pasted_into_an_answer_is_handed_in(project):
    attached = {"a.png": {"image/png": "AAAA"}}
    cell("answer-1b", source="![a](attachment:a.png)", attachments=attached)(project)
    files, gaps = submit.collect_hand_in()
    assert gaps == [] and files["answers_files/1b-1-1.png"] == b"\0\0\0"


def test_the_zip_is_the_same_each_time(project, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.chdir(project / "notebooks")
    submit.submit()
    assert "Everything is there: submission.zip holds 7 files and is ready" in capsys.readouterr().out
    for path in project.rglob("*"):
        if path.is_file() and path.suffix != ".zip":
            path.touch()
    assert main(["submit", "--out", "~/new/second.zip"]) == 0
    assert (project / "submission.zip").read_bytes() == (project / "new" / "second.zip").read_bytes()
    with zipfile.ZipFile(project / "submission.zip") as archive:
        assert archive.namelist() == CONTENT and archive.testzip() is None
        assert {name: archive.read(name) for name in CONTENT} == submit.collect_hand_in()[0]
        assert {member.external_attr >> 16 for member in archive.infolist()} == {0o100644}


def test_gaps_are_printed_and_nothing_is_written_unless_the_command_is_told_to(project, capsys):
    SPOILERS["answer not written"][0][0](project)
    submit.submit()  # In a notebook nothing is raised.
    assert [line[:7] for line in capsys.readouterr().out.splitlines()] == ["MISSING", "error: "]
    assert main(["submit"]) == 2
    said = capsys.readouterr()
    assert "problem 1b" in said.out and said.err.startswith("error: ") and not Path("submission.zip").exists()
    assert main(["submit", "--out", "handed.zip", "--incomplete"]) == 0
    assert "Without what is missing: handed.zip holds 6 files" in capsys.readouterr().out
    with zipfile.ZipFile("handed.zip") as archive:
        assert archive.namelist() == [name for name in CONTENT if name != "answers.md"]


def test_the_lists_of_notebooks_functions_and_modules_are_the_project_s():
    """Handed in is every notebook with points; the lab after them has none."""
    found = {path.stem for path in (ROOT / "helpers").iterdir()}
    assert {*recipe.COURSE} == found - {"__init__", "__pycache__"}
    assert list(submit.NOTEBOOKS) == sorted(path.name for path in (ROOT / "notebooks").glob("0[1-4]*.ipynb"))
    for name, problem in submit.FUNCTIONS.items():
        assert getattr(exercises, name).__doc__.startswith(f"Problem {problem}: ")
