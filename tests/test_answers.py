"""`answers.md`: what is committed is what the notebooks and results give; whatever an editor saved is read."""

import base64
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import RESULTS, ROOT, change_cell

from helpers import answers
from helpers.results import load_results
from helpers.settings import CourseError

QUICK, FULL_SIZE = RESULTS / "quick.json", RESULTS / "imdb.json"
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


def each_cell(edit):
    return lambda content: [edit(cell) for cell in content["cells"]]


def change_answer(notebooks, problem, **changes):
    """Change the answer, and what the lab adds to it."""
    change_cell(notebooks, f"answer-{problem}", f"full-{problem}", **changes)


def text(source, **more):
    return {"cell_type": "markdown", "source": source, "metadata": {}} | more


def export(notebooks, results=QUICK):
    found = answers.collect_answers(answers.read_notebooks(notebooks, (*answers.NOTEBOOKS, answers.LAB)))
    return answers.export_answers(found, load_results(results) if isinstance(results, Path) else results, "files")


def test_the_committed_file_is_what_the_export_gives():
    assert (ROOT / "answers.md").read_text(encoding="utf-8") == export(ROOT / "notebooks", FULL_SIZE)[0]


def test_the_header_names_profile_model_data_and_what_stands_in():
    def head(results):
        return export(ROOT / "notebooks", results)[0].split("## Problem")[0]

    assert all(words in head(QUICK) for words in ("profile `quick`", "stand-in", "short, synthetic reviews"))
    results = load_results(FULL_SIZE)
    assert all(words in head(results) for words in ("stand-in", "data: imdb", "25,000 test reviews"))
    assert "synthetic" not in head(results)
    results["provenance"]["model"]["name"] = "prajjwal1/bert-tiny"
    assert "stand-in" not in head(results)


def test_a_written_answer_reaches_the_export_and_a_missing_one_is_named(notebooks):
    for written in (f"{answers.PROMPT}\n\nThe grid is Google's.", "Решётка", "网格是谷歌的。", "$20$"):
        change_answer(notebooks, "1c", source=written)
        assert written in export(notebooks)[0]
    for problem, prompt in (("1c", "_Your answer here._"), ("3a", "YOUR ANSWER HERE"), ("3b", " \u200b\n")):
        change_answer(notebooks, problem, source=prompt)
    with pytest.raises(CourseError, match="1c, 3a, 3b"):
        export(notebooks)


SAVED = {
    "version 4.4 with ids": lambda content: content.update(nbformat_minor=4),
    "outputs of a text": each_cell(lambda cell: cell.update(outputs=[], execution_count=None)),
    "neither ids nor tags": each_cell(lambda cell: cell.update(id=cell.pop("id") and None, metadata={})),
    "id null": each_cell(lambda cell: cell.update(id=None)),
    "id in the metadata": each_cell(lambda cell: cell["metadata"].update(id=cell.pop("id"))),
    "no metadata": lambda content: [content.pop("metadata"), *(cell.pop("metadata") for cell in content["cells"])],
    "tags lost": each_cell(lambda cell: cell.update(metadata={"tags": None})),
    "source as one text": each_cell(lambda cell: cell.update(source="".join(cell["source"]))),
    "PyCharm's marks": each_cell(lambda cell: cell.update(source=["#%% md\n", *cell["source"]])),
    "things that are no cells": lambda content: content["cells"].extend([None, 3, {}, {"cell_type": []}]),
}


@pytest.mark.parametrize("how", SAVED)
def test_what_an_editor_saved_is_read_like_the_original(notebooks, how):
    wanted = answers.collect_answers([answers.read_notebook(notebooks / FIRST)])["1b"][0].source
    change(notebooks, FIRST, SAVED[how])
    path = notebooks / FIRST
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    notebook = answers.read_notebook(path)
    (found,) = answers.collect_answers([notebook])["1b"]
    assert found.source == wanted
    assert all(isinstance(cell.source, str) and isinstance(cell.get("outputs", []), list) for cell in notebook.cells)


def test_half_a_character_harms_nothing(notebooks, tmp_path):
    change_answer(notebooks, "1b", source="a \ud83d b \ud83d\ude00")
    answers.write_answers(notebooks, QUICK, tmp_path / "answers.md")
    assert "a \ufffd b 😀" in (tmp_path / "answers.md").read_text(encoding="utf-8")


COPIES = ("01_bert_inputs-Copy1.ipynb", "Copy of 01_bert_inputs.ipynb", "01_bert_inputs (1).ipynb")
COPIES += ("01_bert_inputs_Ann_Example.ipynb", "01 bert inputs.ipynb", "1_bert_inputs.ipynb")
COPIES += ("“01_bert_inputs.ipynb”的副本", "01_bert_inputs.ipynb のコピー", "01_bert_inputs.ipynb의 사본")


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ([each for name in COPIES for each in (name, f"ann_{name}", name.upper(), f"{name}.txt")], True),
        (["exercises.py", "exercises (1).py", "exercises_copy.py", "hw1_exercises.py"], True),
        (["exercises_Ann_Example.py", "exercises_final_v2.py", "exercises - Kopie (2).py", "exercises.py.txt"], True),
        (["exercises.py~", "exercises.py2", "exercises.py my notes.pdf", "test_exercises.py"], False),
        (["exercises_test (1).py", "exercises.pyc", "._exercises.py", "myexercises.py"], False),
        (["exercises2024solutionsofall.py", "exercises" + "! _" * 90, "exercises" * 30], False),
    ],
)
def test_a_copy_is_known_by_its_name(names, known):
    wanted = FIRST if names[0] in COPIES else "exercises.py"
    assert {answers.is_copy(name, wanted) for name in names} == {known}


SPELT = ("my (é) image.png", "my%20(é)%20image.png", "my%20(%C3%A9)%20image.png", "my%20%28%C3%A9%29%20image.png")


@pytest.mark.parametrize("link", [*(f"![a](attachment:{name})" for name in SPELT), "no link"])
def test_an_image_pasted_into_an_answer_is_written_beside_it(notebooks, tmp_path, link):
    change_answer(notebooks, "3a", source=f"See {link}.", attachments={"my (é) image.png": {"image/png": PNG}})
    out = tmp_path / "out" / "mine.md"
    answers.write_answers(notebooks, QUICK, out)
    name, *_ = re.findall(r"\((mine_files/3a[^)]*\.png)\)", out.read_text(encoding="utf-8"))
    assert (out.parent / name).read_bytes() == b"\x89PNG and more"
    assert "attachment:" not in out.read_text(encoding="utf-8")


def test_an_image_in_the_text_itself_is_written_beside_it_too(notebooks):
    change_answer(notebooks, "3a", source=f"See ![x](data:image/png;base64,{PNG}) and ![y](data:image/png;base64,=).")
    text, figures = export(notebooks)
    assert figures["files/3a-1-1.png"] == b"\x89PNG and more" and "base64" not in text


IMAGES = {
    "![x](attachment:a.png) ![y](attachment:b.png)": ["attachment:b.png"],  # A copied text leaves its image behind.
    "![x](attachment:a.png) ![x](<my plot.png>) [x](my plot.PNG)": ["my plot.png", "my plot.PNG"],
    "![x][plot] <img src=one.png width=9> ![x]( two.png 'Two')\n\n[plot]: plots/mine.jpeg 'Mine'": [
        "one.png",
        "two.png",
        "plots/mine.jpeg",
    ],
    "An image is written `![x](a.png)`, or\n```html\n\n<img src='a.png'>\n```": [],
    "See mine.png of [2] ![x](<https://c.org/a.png>)\n\n[c]: https://c.org/c.png\n\n[2]: notes.md": [],
    "![](data:image/svg+xml;utf8,<svg></svg>)" + "<img src=" * 9000 + "`" * 9000 + "](" * 99_000 + "\n[a" * 99_000: [],
    "<img src=" + " " * 40_000 + ">": [],
}


@pytest.mark.parametrize("source", IMAGES, ids=range(len(IMAGES)))
def test_images_that_an_answer_shows_and_does_not_have_are_named(source):
    cell = nbformat.from_dict(text(source, attachments={"a.png": {"image/png": PNG}}))
    assert answers.find_lost_images(cell) == IMAGES[source]


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[" * 100_000, b'{"cells": 3}', b'{"cells": [' + b"{}," * 6000 + b"{}]}"]
)
def test_a_damaged_notebook_is_named_and_the_old_file_stays(notebooks, tmp_path, content):
    out = tmp_path / "answers.md"
    out.write_text("what was there")
    (notebooks / "02_hyperparameters.ipynb").write_bytes(content)
    with pytest.raises(CourseError, match="02_hyperparameters.ipynb"):
        answers.write_answers(notebooks, QUICK, out)
    assert out.read_text() == "what was there"


MINE = text("One.", metadata={"tags": ["answer", "problem-1b"]})
PROMPT = MINE | {"source": answers.PROMPT}
# What stands between the question and the course's next heading, and what of it is the answer.
SPLIT = {
    "with its tags": ([MINE, MINE], ["One.", "One."]),
    "the second without": ([MINE, text("Two."), text("## Three")], ["One.", "Two.", "## Three"]),
    "below the prompt": ([PROMPT, text("Two.", cell_type="raw")], ["Two."]),
    "in a new cell": ([text("## My answer")], ["## My answer"]),
    "not at all": ([PROMPT, text("1 + 1", cell_type="code")], []),
    "under the question's heading": ([text("## Problem 1b\nOne."), text("Two.")], ["## Problem 1b\nOne.", "Two."]),
    "before another problem": ([MINE, text("\n## Problem 1d"), text("No answer.")], ["One."]),
}


@pytest.mark.parametrize("how", SPLIT)
@pytest.mark.parametrize("kept", [True, False])
def test_all_texts_between_a_question_and_the_next_heading_are_the_answer(notebooks, how, kept):
    cells, wanted = SPLIT[how]

    def split(content):
        at = [cell["id"] for cell in content["cells"]].index("answer-1b")
        content["cells"][at : at + 1] = cells
        if not kept:
            content["cells"] = [cell | {"id": None, "metadata": {}} for cell in content["cells"]]

    change(notebooks, FIRST, split)
    found = answers.collect_answers([answers.read_notebook(notebooks / FIRST)])["1b"]
    assert [cell.source for cell in found] == wanted
