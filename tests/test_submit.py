"""The hand-in: every gap is named, all at once; the zip holds what was verified, and is the same each time."""

import json
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest

from helpers import answers, exercises, submit
from helpers.__main__ import main
from helpers.results import best_run, fingerprint_code, select_runs
from helpers.settings import Settings

ROOT = Path(__file__).parents[1]
CONTENT = ["answers.md", "exercises.py", *(f"notebooks/{name}" for name in submit.NOTEBOOKS), "results.json"]
FIRST, SECOND, THIRD, FOURTH = submit.NOTEBOOKS


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A complete project to spoil: notebooks, exercises.py, and results that belong to it."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "helpers" / "exercises.py", tmp_path)
    (tmp_path / "build" / "quick").mkdir(parents=True)
    results = json.loads((ROOT / "results" / "quick.json").read_text())
    results["provenance"]["code"] = fingerprint_code()
    (tmp_path / "build" / "quick" / "results.json").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "EXERCISES", tmp_path / "exercises.py")
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    return tmp_path


def change_cell(project, notebook, cell_id, **changes):
    path = project / "notebooks" / notebook
    content = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in content.cells if cell.id == cell_id)
    cell.update(changes)
    nbformat.write(content, path)


def change_results(project, change):
    path = project / "build" / "quick" / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def drop_runs(results, **fields):
    dropped = select_runs(results, **fields)
    results["runs"] = [run for run in results["runs"] if run not in dropped]


def replace_code(project, old, new):
    path = project / "exercises.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ERROR = [nbformat.v4.new_output("error", ename="CheckFailed", evalue="", traceback=[])]


def last_code_cell():
    cells = nbformat.read(ROOT / "notebooks" / THIRD, as_version=4).cells
    return [cell.id for cell in cells if cell.cell_type == "code"][-1]


def copy_twice(project):
    for number in (1, 2):
        shutil.copy(project / "notebooks" / SECOND, project / "notebooks" / f"Copy {number} of {SECOND}")
    (project / "notebooks" / SECOND).unlink()


def change_run(**changes):
    """Change the best run of the policy full."""
    return lambda p: change_results(p, lambda results: best_run(results, "full").update(changes))


# What is done to the project, and words of each gap that is then named.
SPOILERS = {
    "notebook gone": (lambda p: (p / "notebooks" / SECOND).unlink(), [SECOND, "1c"]),
    "notebook cut short": (lambda p: (p / "notebooks" / SECOND).write_text("{"), ["readable", "1c"]),
    "two copies of a notebook": (copy_twice, ["Rename the one that counts", "1c"]),
    "answer not written": (lambda p: change_cell(p, FIRST, "answer-1b", source=answers.PROMPT), ["problem 1b"]),
    "an image that stays behind": (
        lambda p: change_cell(p, FIRST, "answer-1b", source="See ![this](mine.png)."),
        ["mine.png, which is not handed in"],
    ),
    "cell not run": (lambda p: change_cell(p, THIRD, last_code_cell(), execution_count=None), ["have not been run"]),
    "check failed": (lambda p: change_cell(p, THIRD, "check-2a", outputs=ERROR), ["checks.problem_2a"]),
    "code with a syntax error": (lambda p: replace_code(p, "return model\n", "return (\n"), ["does not compile"]),
    "code with a null": (lambda p: (p / "exercises.py").write_bytes(b"x = 1\0"), ["does not compile"]),
    "code gone": (lambda p: (p / "exercises.py").unlink(), ["exercises.py"]),
    "function renamed": (lambda p: replace_code(p, "def init_tester", "def tester"), ["init_tester (problem 2b)"]),
    "stub left": (
        lambda p: replace_code(p, "    model = load_", "    raise NotImplementedError\n    model = load_"),
        ["init_model (problem 2a)"],
    ),
    "nothing trained": (lambda p: shutil.rmtree(p / "build"), ["There is no results file"]),
    "results cut short": (lambda p: (p / "build/quick/results.json").write_text("{"), ["results.json cannot be read"]),
    "results of the old shape": (lambda p: change_results(p, lambda r: r.update(schema=1)), ["before version 0.2"]),
    "a policy missing": (lambda p: change_results(p, lambda r: drop_runs(r, policy="bitfit")), ["policy bitfit"]),
    "a cell missing": (
        lambda p: change_results(p, lambda r: drop_runs(r, policy="full", learning_rate=3e-5, batch_size=8)),
        ["policy full"],
    ),
    "no test": (lambda p: change_results(p, lambda r: best_run(r, "full").pop("test")), ["policy full"]),
    "a shorter run": (change_run(epochs=1), ["policy full"]),
    "a test that is none": (change_run(test=3), ["damaged"]),
    "no history": (change_run(history=[]), ["damaged"]),
    "accuracies of 0": (change_run(test={"accuracy": 0, "n": 9}), ["damaged"]),
    "results without provenance": (lambda p: change_results(p, lambda r: r.pop("provenance")), ["damaged"]),
    "results of other code": (
        lambda p: change_results(p, lambda r: r["provenance"].update(code="0" * 16)),
        ["other functions"],
    ),
    "a function that training uses changed": (
        lambda p: replace_code(p, 'padding="max_length"', "padding=True"),
        ["other functions"],
    ),
}


def test_a_complete_project_has_no_gap_and_all_files(project):
    hand_in = submit.collect_hand_in()
    assert hand_in.gaps == []
    assert sorted(hand_in.files) == CONTENT
    assert hand_in.files["exercises.py"] == (project / "exercises.py").read_bytes()
    assert hand_in.files["results.json"] == (project / "build/quick/results.json").read_bytes()
    for name in submit.NOTEBOOKS:
        assert hand_in.files[f"notebooks/{name}"] == (project / "notebooks" / name).read_bytes()
    assert "## Problem 1b" in hand_in.files["answers.md"].decode()


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_gap_is_named_and_nothing_else_is(project, spoiler):
    spoil, words = SPOILERS[spoiler]
    spoil(project)
    gaps = submit.collect_hand_in().gaps
    assert len(gaps) == len(words), gaps
    for gap, word in zip(gaps, words, strict=True):
        assert word in gap


def test_all_gaps_are_listed_at_once(project):
    spoiled = ("notebook gone", "answer not written", "check failed", "stub left", "nothing trained")
    for spoiler in spoiled:
        SPOILERS[spoiler][0](project)
    gaps = "\n".join(submit.collect_hand_in().gaps)
    assert all(word in gaps for spoiler in spoiled for word in SPOILERS[spoiler][1])


def test_a_change_that_training_never_reads_makes_no_result_stale(project):
    path = project / "exercises.py"
    before, mark, after = path.read_text().rpartition("def hyperparameter_search_settings")
    path.write_text(before + mark + after.replace("    ### BEGIN", "    unused = 21\n    ### BEGIN") + "# The end.\n")
    assert submit.collect_hand_in().gaps == []


def test_a_pruned_search_is_whole_too(project):
    def prune(results):
        chosen = [best_run(results, policy) for policy in ("full", "bitfit")]
        for run in results["runs"]:
            if run not in chosen:
                run["history"] = run["history"][:1]

    change_results(project, prune)
    assert submit.collect_hand_in().gaps == []


def test_the_last_cell_need_not_have_run_for_it_is_running(project):
    change_cell(project, FOURTH, "hand-in-check", execution_count=None, outputs=ERROR)
    assert submit.collect_hand_in().gaps == []


def test_another_profile_s_results_are_taken_where_quick_has_none(project):
    change_results(project, lambda results: results["provenance"].update(profile="full"))
    (project / "build" / "quick").rename(project / "build" / "full")
    hand_in = submit.collect_hand_in()
    assert hand_in.gaps == [] and json.loads(hand_in.files["results.json"])["provenance"]["profile"] == "full"


def test_copies_and_sidecars_are_neither_packed_nor_exported(project):
    before = submit.collect_hand_in()
    shutil.copy(project / "notebooks" / FIRST, project / "notebooks" / "01_bert_inputs-Copy1.ipynb")
    (project / "notebooks" / f"._{THIRD}").write_bytes(b"\0")
    assert submit.collect_hand_in() == before


@pytest.mark.parametrize("place", ["named", "working folder", "Colab's copies"])
def test_notebooks_may_lie_elsewhere(project, place):
    folder = project / "drive"
    (project / "notebooks").rename(folder)
    for path in folder.iterdir():
        if place == "working folder":
            path.rename(project / path.name)
        elif place == "Colab's copies":
            path.rename(folder / f"Copy of {path.name}")
    hand_in = submit.collect_hand_in(None if place == "working folder" else folder)
    assert hand_in.gaps == [] and sorted(hand_in.files) == CONTENT


def test_an_image_pasted_into_an_answer_is_handed_in(project):
    change_cell(
        project, FIRST, "answer-1b", source="![a](attachment:a.png)", attachments={"a.png": {"image/png": "AAAA"}}
    )
    hand_in = submit.collect_hand_in()
    assert hand_in.gaps == [] and hand_in.files["answers_files/1b-1-1.png"] == b"\0\0\0"
    assert "(answers_files/1b-1-1.png)" in hand_in.files["answers.md"].decode()


def test_the_zip_is_the_same_each_time(project):
    hand_in = submit.collect_hand_in()
    hand_in.pack(project / "first.zip")
    for path in project.rglob("*"):
        if path.is_file():
            path.touch()
    submit.collect_hand_in().pack(project / "second.zip")
    assert (project / "first.zip").read_bytes() == (project / "second.zip").read_bytes()
    with zipfile.ZipFile(project / "first.zip") as archive:
        assert archive.namelist() == CONTENT and archive.testzip() is None
        assert {name: archive.read(name) for name in CONTENT} == hand_in.files


def test_in_a_notebook_one_line_is_printed_and_the_zip_stands_beside_the_notebooks_folder(project, monkeypatch, capsys):
    monkeypatch.chdir(project / "notebooks")
    assert submit.submit() is None
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 and "submission.zip" in said.out and said.err == ""
    assert zipfile.is_zipfile(project / "submission.zip")


def test_in_a_notebook_gaps_are_printed_and_nothing_is_raised_or_written(project, capsys):
    SPOILERS["stub left"][0](project)
    SPOILERS["answer not written"][0](project)
    submit.submit()
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("MISSING")]) == 2
    assert not (project / "submission.zip").exists()


def test_the_command_refuses_gaps_unless_told_otherwise(project, capsys):
    SPOILERS["answer not written"][0](project)
    assert main(["submit", "--out", "handed.zip"]) == 2
    said = capsys.readouterr()
    assert "problem 1b" in said.out and said.err.startswith("error: ") and not Path("handed.zip").exists()
    assert main(["submit", "--out", "handed.zip", "--incomplete"]) == 0
    assert "Without what is missing: handed.zip holds 6 files" in capsys.readouterr().out
    with zipfile.ZipFile("handed.zip") as archive:
        assert archive.namelist() == [name for name in CONTENT if name != "answers.md"]


@pytest.mark.parametrize("out", ["no/such/folder/handed.zip", "exercises.py/handed.zip"])
def test_where_the_zip_cannot_be_written_that_is_said(project, capsys, out):
    assert main(["submit"]) == 0
    assert "submission.zip holds 7 files" in capsys.readouterr().out
    assert main(["submit", "--out", out]) == 2
    assert "Could not write" in capsys.readouterr().err


def test_the_lists_of_notebooks_and_functions_are_the_project_s():
    """Handed in is every notebook with points; the lab after them has none."""
    assert list(submit.NOTEBOOKS) == sorted(path.name for path in (ROOT / "notebooks").glob("0[1-4]*.ipynb"))
    for name, problem in submit.FUNCTIONS.items():
        assert getattr(exercises, name).__doc__.startswith(f"Problem {problem}: ")


def test_the_settings_grid_is_what_is_asked_of_the_results(project):
    settings = Settings(learning_rates=(3e-4, 1e-3), build=project / "build")
    assert "all 10 cells" in submit.collect_hand_in(settings=settings).gaps[0]
