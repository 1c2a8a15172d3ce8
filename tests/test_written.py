"""What is read of a submission without running its code: answers, images, changed notebooks, results."""

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("instructor", reason="the student version has no grader")

from helpers.answers import NOTEBOOKS, read_notebook
from instructor import written

ROOT = Path(__file__).parents[1]
COURSE = written.describe_course({name: read_notebook(ROOT / "notebooks" / name) for name in NOTEBOOKS})
PNG = "iVBORw0KGgoAAAA="


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


NESTED = {
    "01_bert_inputs.ipynb": b"[" * 10**7,
    "02_hyperparameters.ipynb": b'{"cells": [' + b"{}," * 3 * 10**6 + b"{}]}",
}


def test_what_a_submission_does_to_its_reader_is_its_own_matter(tmp_path: Path, monkeypatch) -> None:
    deep = write(tmp_path / "deep", {"exercises.py": b"x = " + b"(" * 10**5, "results.json": b"[" * 10**6, **NESTED})
    found = written.examine_apart([("deep", deep, "")], COURSE)
    assert found["exercises"] and len(found["notes"]) == 4 and "not a results file" in found["results"][0]
    monkeypatch.setattr(written, "SECONDS", 0.01)
    started = time.monotonic()
    ended = written.examine_apart([("deep", deep, "")], COURSE)
    assert "reading it takes more than" in ended["refused"] and time.monotonic() - started < 10
    assert ended.keys() == found.keys()


def notebook_with(edit) -> bytes:
    notebook = json.loads((ROOT / "notebooks" / NOTEBOOKS[0]).read_text(encoding="utf-8"))
    edit(notebook["cells"])
    return json.dumps(notebook).encode()


def examine(tmp_path: Path, edit) -> dict:
    path = write(tmp_path / "ann", {NOTEBOOKS[0]: notebook_with(edit)})
    return written.examine([("ann", path, "")], COURSE)


def answer(cells: list[dict], **changes: object) -> None:
    next(cell for cell in cells if cell["id"] == "answer-1b").update(changes)


def test_answers_and_changes_of_a_notebook_are_shown(tmp_path: Path) -> None:
    def edit(cells: list[dict]) -> None:
        answer(cells, source="Mine.")
        next(cell for cell in cells if cell["cell_type"] == "code").update(source="import os")
        next(cell for cell in cells if cell["id"] == "problem-1b").update(source="I answer here.")
        del cells[-1]
        cells.insert(0, {"id": "new", "cell_type": "code", "source": "1 / 0", "metadata": {}})

    found = examine(tmp_path, edit)
    assert found["answers"] == {"1b": "Mine."} and found["unplaced"] == ["I answer here.", "1 / 0"]
    said = " ".join(found["notes"])
    assert "2 cells changed" in said and "1 cells deleted" in said and "1 cells added" in said
    assert said.count("is missing") == 3


def test_a_notebook_that_lost_its_ids_is_the_same_and_another_one_is_noted(tmp_path: Path) -> None:
    found = examine(tmp_path, lambda cells: [cell.pop("id") for cell in cells])
    assert not [note for note in found["notes"] if "missing" not in note] and "1b" in found["answers"]
    found = examine(tmp_path, lambda cells: [cells.clear(), cells.append({"cell_type": "code", "source": "1"})])
    assert "is another notebook" in " ".join(found["notes"]) and found["answers"] == {}


def test_an_answer_hides_nothing_and_is_no_longer_than_can_be_read(tmp_path: Path) -> None:
    text = examine(tmp_path, lambda cells: answer(cells, source="seen \u202e \x1b[8m \u200b \ud800" + "x" * 10**6))
    shown = text["answers"]["1b"]
    assert shown.startswith("seen \\u202e \\u001b[8m \\u200b") and len(shown) < 21_000 and "more characters]" in shown


def test_images_reach_the_reader_and_other_attachments_are_named(tmp_path: Path) -> None:
    attached = {"a.png": {"image/png": PNG}, "b.svg": {"image/svg+xml": "PHN2Zz4="}, "c.png": {"image/png": "PGh0bWw+"}}
    found = examine(
        tmp_path, lambda cells: answer(cells, source="![](attachment:a.png) ![](my.png)", attachments=attached)
    )
    assert list(found["images"].values()) == [PNG] and "1b-1-" in found["answers"]["1b"]
    said = " ".join(found["notes"])
    assert said.count("is no image of a usual kind") == 2 and "shows my.png, which was not handed in" in said


def test_results_are_described_and_earn_nothing() -> None:
    data = (ROOT / "results" / "quick.json").read_bytes()
    code = json.loads(data)["provenance"]["code"]
    full, bitfit, made = written.describe_results(data, code)
    assert "4,386,178" in full and "3,074" in bitfit and "the same code as handed in" in made
    assert "ODD" not in full + bitfit
    forged = json.loads(data)
    next(run for run in forged["runs"] if "test" in run and run["policy"] == "full")["test"]["accuracy"] = 1.5
    forged["runs"].remove(next(run for run in forged["runs"] if run["policy"] == "bitfit" and "test" not in run))
    full, bitfit, made = written.describe_results(json.dumps(forged).encode(), "another")
    assert "an accuracy that is none" in full and "19 different cells" in bitfit and "other code" in made
    forged["runs"] = [run | {"policy": f"{n}" * 10**4} for n in range(500) for run in forged["runs"] if "test" in run][
        :999
    ]
    assert sum(map(len, written.describe_results(json.dumps(forged).encode(), ""))) < 3000


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"provenance": 1, "runs": {}}', b"[" * 10**5])
def test_results_that_are_none_do_no_harm(data: bytes) -> None:
    assert written.describe_results(data, "") == ["results.json is not a results file of this version of the course."]
