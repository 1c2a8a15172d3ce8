"""`answers.md`: what is committed is what the notebooks and results give; whatever an editor saved is read."""

import base64
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from helpers import answers, report
from helpers.results import best_run, load_results, published
from helpers.settings import CourseError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "quick.json"
FULL_SIZE = ROOT / "results" / "imdb.json"
FIRST = "01_bert_inputs.ipynb"
PNG = base64.b64encode(b"\x89PNG and more").decode()


@pytest.fixture
def notebooks(tmp_path):
    return shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))


def change(notebooks, name, edit):
    """Edit a notebook as JSON, as no library would write it."""
    content = json.loads((notebooks / name).read_text(encoding="utf-8"))
    edit(content)
    (notebooks / name).write_text(json.dumps(content), encoding="utf-8")


def change_answer(notebooks, problem, **changes):
    """Change the answer, and what the lab adds to it."""
    names = (f"answer-{problem}", f"full-{problem}")
    for path in notebooks.glob("*.ipynb"):
        change(
            notebooks,
            path.name,
            lambda content: [cell.update(changes) for cell in content["cells"] if cell["id"] in names],
        )


def export(notebooks, results=RESULTS, folder="answers_files"):
    found = answers.collect_answers(answers.read_notebooks(notebooks, (*answers.NOTEBOOKS, answers.LAB)))
    return answers.export_answers(found, results if isinstance(results, dict) else load_results(results), folder)


def test_the_committed_file_is_what_the_export_gives():
    assert (ROOT / "answers.md").read_text(encoding="utf-8") == export(ROOT / "notebooks", FULL_SIZE)[0]


def test_the_problems_stand_in_the_source_documents_order_with_both_tables():
    text, figures = export(ROOT / "notebooks")
    assert figures == {}
    headings = re.findall(r"^## (Problem \w+: .+)$", text, re.M)
    assert headings == [f"Problem {problem}: {title}" for problem, title in answers.TITLES.items()]
    for policy, row in (("full", "Without BitFit"), ("bitfit", "With BitFit")):
        best = best_run(load_results(RESULTS), policy)
        rows = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
        assert f"{best['validation_accuracy']:.4f}" in rows[0] and str(best["batch_size"]) in rows[0]
        assert float(rows[1].split("|")[3]) == pytest.approx(best["test"]["accuracy"], abs=1e-5)
        known = best_run(published(), policy)
        assert f"{known['validation_accuracy']:.4f}" in rows[0]
        assert str(known["trainable_parameters"]) in rows[1] and str(known["test"]["accuracy"]) in rows[1]


def test_the_header_names_profile_model_data_and_what_stands_in():
    header = export(ROOT / "notebooks")[0].split("## Problem")[0]
    assert "profile `quick`" in header and "offline checkpoint" in header and "not the real experiment" in header
    results = load_results(FULL_SIZE)
    header = export(ROOT / "notebooks", results)[0].split("## Problem")[0]
    assert "stand-in" in header and "data: imdb" in header and "72 of 160 epochs" in header
    results["provenance"]["model"]["name"] = "prajjwal1/bert-tiny"
    assert "stand-in" not in export(ROOT / "notebooks", results)[0].split("## Problem")[0]


def test_a_written_answer_reaches_the_export_and_a_missing_one_is_named(notebooks):
    change_answer(notebooks, "1c", source="The grid is Google's.")
    assert "The grid is Google's." in export(notebooks)[0]
    for problem, prompt in (("1c", answers.PROMPT), ("3a", "YOUR ANSWER HERE"), ("3b", "")):
        change_answer(notebooks, problem, source=prompt)
    with pytest.raises(CourseError, match="1c, 3a, 3b"):
        export(notebooks)


def each_cell(edit):
    return lambda content: [edit(cell) for cell in content["cells"]]


def to_version_3(content):
    cells = [dict(cell) for cell in content.pop("cells")]
    for cell in cells:
        if cell["cell_type"] == "code":
            cell |= {"input": cell.pop("source"), "prompt_number": 1, "language": "python", "outputs": []}
    content |= {"nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": cells, "metadata": {}}]}


SAVED = {
    "version 4.4 with ids": lambda content: content.update(nbformat_minor=4),
    "no version": lambda content: [content.pop("nbformat"), content.pop("nbformat_minor")],
    "version 3": to_version_3,
    "outputs of a text": each_cell(lambda cell: cell.update(outputs=[], execution_count=None)),
    "no outputs": each_cell(lambda cell: cell.pop("outputs", None)),
    "no id": each_cell(lambda cell: cell.pop("id")),
    "id null": each_cell(lambda cell: cell.update(id=None)),
    "id in the metadata": each_cell(lambda cell: cell["metadata"].update(id=cell.pop("id"))),
    "all ids the same": each_cell(lambda cell: cell.update(id="x")),
    "no metadata": lambda content: [content.pop("metadata"), *(cell.pop("metadata") for cell in content["cells"])],
    "tags lost": each_cell(lambda cell: cell.update(metadata={"tags": None})),
    "source as one text": each_cell(lambda cell: cell.update(source="".join(cell["source"]))),
    "attachments null": each_cell(lambda cell: cell.update(attachments=None)),
    "things that are no cells": lambda content: content["cells"].extend([None, 3, {}, {"cell_type": []}]),
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_an_editor_saved_is_read_like_the_original(notebooks, how, mark):
    wanted = answers.collect_answers([answers.read_notebook(notebooks / FIRST)])["1b"][0].source
    change(notebooks, FIRST, SAVED[how])
    path = notebooks / FIRST
    path.write_text(mark + path.read_text(encoding="utf-8"), encoding="utf-8")
    notebook = answers.read_notebook(path)
    (found,) = answers.collect_answers([notebook])["1b"]
    assert found.source == wanted
    assert all(isinstance(cell.source, str) and isinstance(cell.get("outputs", []), list) for cell in notebook.cells)


def test_half_a_character_harms_nothing(notebooks, tmp_path):
    change_answer(notebooks, "1b", source="a \ud83d b \ud83d\ude00")
    answers.write_answers(notebooks, RESULTS, tmp_path / "answers.md")
    assert "a \ufffd b 😀" in (tmp_path / "answers.md").read_text(encoding="utf-8")


def test_copies_and_sidecars_beside_a_notebook_change_nothing(notebooks):
    before = export(notebooks)
    (notebooks / f"._{FIRST}").write_bytes(b"\0\5\x16\7macOS")
    for name in ("01_bert_inputs-Copy1.ipynb", "Copy of 01_bert_inputs.ipynb", "01_bert_inputs (1).ipynb"):
        shutil.copy(notebooks / FIRST, notebooks / name)
    (notebooks / ".ipynb_checkpoints").mkdir()
    shutil.copy(notebooks / FIRST, notebooks / ".ipynb_checkpoints")
    assert export(notebooks) == before


@pytest.mark.parametrize(
    "name",
    ["Copy of 01_bert_inputs.ipynb", "Kopie von 01_bert_inputs.ipynb", "01_bert_inputs (2).ipynb"]
    + [
        "01_bert_inputs-Copy1.ipynb",
        "01_bert_inputs copy.ipynb",
        "01_BERT_inputs.ipynb.txt",
        "ann_01_bert_inputs.ipynb",
    ],
)
def test_a_copy_stands_for_a_notebook_that_is_not_there(notebooks, name):
    before = export(notebooks)
    (notebooks / FIRST).rename(notebooks / name)
    assert export(notebooks) == before


def test_of_several_copies_the_student_says_which(notebooks):
    (notebooks / FIRST).rename(notebooks / "01_bert_inputs (1).ipynb")
    shutil.copy(notebooks / "01_bert_inputs (1).ipynb", notebooks / "01_bert_inputs (2).ipynb")
    with pytest.raises(CourseError, match=r"\(1\).*\(2\).*Rename the one that counts to 01_bert_inputs.ipynb"):
        export(notebooks)


@pytest.mark.parametrize(
    "name", ["test_exercises.py", "exercises.pyc", "._exercises.py", "myexercises.py", "exercises2024solutionsofall.py"]
)
def test_other_files_are_no_copies(name):
    assert not answers.is_copy(name, "exercises.py")


@pytest.mark.parametrize("name", ["exercises (1).py", "exercises-1.py", "exercises_copy.py", "hw1_exercises.py"])
def test_exercises_are_recognised_under_the_names_of_copies(name):
    assert answers.is_copy(name, "exercises.py")


@pytest.mark.parametrize("link", ["![a](attachment:my image.png)", "![a](attachment:my%20image.png)", "no link"])
def test_an_image_pasted_into_an_answer_is_written_beside_it(notebooks, tmp_path, link):
    change_answer(notebooks, "3a", source=f"See {link}.", attachments={"my image.png": {"image/png": PNG}})
    out = tmp_path / "out" / "mine.md"
    answers.write_answers(notebooks, RESULTS, out)
    name, *_ = re.findall(r"\((mine_files/3a[^)]*\.png)\)", out.read_text(encoding="utf-8"))
    assert (out.parent / name).read_bytes() == b"\x89PNG and more"


def test_an_image_in_the_text_itself_is_written_beside_it_too(notebooks):
    change_answer(notebooks, "3a", source=f"See ![x](data:image/png;base64,{PNG}) and ![y](data:image/png;base64,=).")
    text, figures = export(notebooks)
    assert figures["answers_files/3a-1-1.png"] == b"\x89PNG and more" and "base64" not in text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"nbformat": 4, "cells": 3}']
    + [b'{"worksheets": [3]}', b'{"cells": [' + b"{}," * 6000 + b"{}]}"],
)  # fmt: skip
def test_a_damaged_notebook_is_named_and_the_old_file_stays(notebooks, tmp_path, content):
    out = tmp_path / "answers.md"
    out.write_text("what was there")
    (notebooks / "02_hyperparameters.ipynb").write_bytes(content)
    with pytest.raises(CourseError, match="02_hyperparameters.ipynb"):
        answers.write_answers(notebooks, RESULTS, out)
    assert out.read_text() == "what was there"


def test_an_answer_split_into_two_cells_is_one_answer(notebooks):
    def split(content):
        at = next(at for at, cell in enumerate(content["cells"]) if cell["id"] == "answer-1b")
        content["cells"].insert(at + 1, content["cells"][at] | {"id": "new", "source": "And more."})

    change(notebooks, FIRST, split)
    assert [cell.source[:9] for cell in answers.collect_answers(answers.read_notebooks(notebooks))["1b"]][
        1
    ] == "And more."


def test_the_measured_sentence_is_arithmetic_on_the_results():
    results = load_results(RESULTS)
    best_run(results, "full")["test"] |= {"accuracy": 0.87784, "n": 25000}
    best_run(results, "bitfit")["test"] |= {"accuracy": 0.6262, "n": 25000}
    text = report.describe_gap(results)
    assert "25.2 points (28.7% relative)" in text and "3,074 of 4,386,178 parameters (0.0701%)" in text
    assert "99.93% fewer" in text and "0.4 points" in text


def test_a_read_notebook_is_a_valid_one(notebooks):
    for path in notebooks.glob("*.ipynb"):
        nbformat.validate(answers.read_notebook(path))
