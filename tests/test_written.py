"""What is read of a submission without running its code: answers, images, changed notebooks, results."""

import base64
import json
import multiprocessing
import os  # noqa: F401  (a broken reader's)
import sys
import time
from pathlib import Path

import pytest
from conftest import RESULTS, ROOT
from hostile import write_files as write

from helpers.answers import NOTEBOOKS, read_notebook
from helpers.results import fingerprint_code
from instructor import written
from instructor.release import build_release

COURSE = written.describe_course({name: read_notebook(ROOT / "notebooks" / name) for name in NOTEBOOKS})
PNG, JPEG = "iVBORw0KGgoAAAA=", "/9j/4AAA"
PICTURES = '![](attachment:a.png) ![](my.png) <img width="9" src="b.png"/> <img src="https://c.org/c.png">'


DEEP = 700 if sys.version_info < (3, 12) else 10**4  # Older Pythons still read this as JSON, and fail after that.
NESTED = {
    "01_bert_inputs.ipynb": b"[" * 10**7,
    "03_full_vs_bitfit.ipynb": b'{"cells": [], "metadata": {"a": ' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "02_hyperparameters.ipynb": b'{"cells": [' + b"{}," * 3 * 10**6 + b"{}]}",
}


def test_what_a_submission_does_to_its_reader_is_its_own_matter(tmp_path: Path, monkeypatch) -> None:
    # Training's server process, which other tests have started, may hold torch: too much for the reader's limit.
    monkeypatch.setattr(written, "_context", multiprocessing.get_context("spawn"))
    deep = write(tmp_path / "deep", {"exercises.py": b"x = " + b"(" * 10**5, "results.json": b"[" * 10**6, **NESTED})
    found = written.examine_apart([(deep, "")], COURSE)
    assert found["exercises"] and len(found["notes"]) == 4 and found["results"][0].startswith("ODD")
    assert sum("not a readable notebook" in note for note in found["notes"]) == 3
    monkeypatch.setattr(written, "SECONDS", 0.01)
    started = time.monotonic()
    ended = written.examine_apart([(deep, "")], COURSE)
    assert "it cannot be read within" in ended["refused"] and time.monotonic() - started < 10
    assert ended.keys() == found.keys()


@pytest.mark.parametrize(
    ("broken", "words"), [("os.kill(os.getpid(), 9)", "exit code: -9"), ("bytearray(2**40)", "MiB")]
)
def test_what_ended_a_reader_is_said(monkeypatch, broken: str, words: str) -> None:
    monkeypatch.setattr(written, "_context", multiprocessing.get_context("fork"))
    monkeypatch.setattr(written, "examine", lambda *_: eval(broken))
    assert words in written.examine_apart([], COURSE)["refused"]


def examine(tmp_path: Path, edit) -> dict:
    notebook = json.loads((ROOT / "notebooks" / NOTEBOOKS[0]).read_text(encoding="utf-8"))
    edit(notebook["cells"])
    path = write(tmp_path / "ann", {NOTEBOOKS[0]: json.dumps(notebook).encode()})
    return written.examine([(path, "")], COURSE)


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
    assert found["answers"] == {"1b": "Mine."} and found["unplaced"] == ["I answer here.", "1 / 0", "import os"]
    said = " ".join(found["notes"])
    assert "3 cells changed or deleted" in said and "3 cells changed or added" in said
    assert said.count("is missing") == 3


def test_a_notebook_that_lost_its_ids_is_the_same_and_another_one_is_noted(tmp_path: Path) -> None:
    def edit(cells: list[dict]) -> None:
        for cell in cells:
            del cell["id"]
            cell["source"] = "".join(cell["source"]).replace("\n", "\r\n")

    found = examine(tmp_path, edit)
    assert not [note for note in found["notes"] if "missing" not in note] and "1b" in found["answers"]
    found = examine(tmp_path, lambda cells: [cells.clear(), cells.append({"cell_type": "code", "source": "1"})])
    assert "is another notebook" in " ".join(found["notes"]) and found["answers"] == {}


def test_the_place_that_release_wrote_into_the_first_cells_is_no_change(tmp_path: Path) -> None:
    files, _ = build_release(ROOT, "ada/week.3")
    path = write(tmp_path / "ann", {name: files[f"notebooks/{name}"] for name in NOTEBOOKS})
    found = written.examine([(path, "")], COURSE)
    assert found["unplaced"] == [] and not [note for note in found["notes"] if "missing" not in note]


def test_of_many_cells_it_is_said_how_many_are_shown(tmp_path: Path) -> None:
    def edit(cells: list[dict]) -> None:
        tags = {"tags": ["answer", "problem-1b"]}
        cells += [{"cell_type": "markdown", "source": f"Part {n}.", "metadata": tags} for n in range(30)]
        cells += [{"cell_type": "markdown", "source": f"Note {n}.", "metadata": {}} for n in range(30)]

    found = examine(tmp_path, edit)
    said = " ".join(found["notes"])
    assert "answer 1b is in 31 cells; the first 20 are shown" in said and "Part 18." in found["answers"]["1b"]
    assert "30 cells changed or added, the first 20 shown" in said and len(found["unplaced"]) == 20


def test_an_answer_hides_nothing_and_is_no_longer_than_can_be_read(tmp_path: Path) -> None:
    text = "a\u3000\xa0\u200c\u200f\u202e \x1b[8m \u200b \ud800" + "x" * 10**6
    shown = examine(tmp_path, lambda cells: answer(cells, source=text))["answers"]["1b"]
    assert shown.startswith("a\u3000\xa0\u200c\u200f\\u202e \\u001b[8m \\u200b")
    assert len(shown) < 21_000 and "more characters]" in shown


def test_images_reach_the_reader_and_other_attachments_are_named(tmp_path: Path) -> None:
    attached = {"a.png": {"image/png": PNG}, "b.svg": {"image/svg+xml": "PHN2Zz4="}, "c.png": {"image/png": "PGh0bWw+"}}
    attached |= {"half \ud83d": {"text/plain": "bm8=", "image/png": JPEG}}
    found = examine(tmp_path, lambda cells: answer(cells, source=PICTURES, attachments=attached))
    assert sorted(found["images"].values()) == [JPEG, PNG] and "1b-1-" in found["answers"]["1b"]
    said = " ".join(found["notes"])
    assert said.count("no image of a usual kind") == 2 and said.count("which is not in the notebook") == 2
    assert "shows my.png, " in said and "shows b.png, " in said


def test_photos_are_shown_as_long_as_all_together_are_not_too_large(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(written, "MAX_ALBUM", 16 * 2**20)
    photo = base64.b64encode(b"\xff\xd8\xff" + bytes(15 * 2**19)).decode()
    attached = {f"{number}.jpg": {"image/jpeg": photo} for number in range(3)}
    found = examine(tmp_path, lambda cells: answer(cells, attachments=attached))
    assert [*found["images"].values()] == [photo, photo] and "too much of it" in " ".join(found["notes"])


def describe(results: bytes, code: bytes = (ROOT / "helpers" / "exercises.py").read_bytes()) -> list[str]:
    return written.describe_results({"results.json": results, "exercises.py": code})


def test_results_are_described_and_earn_nothing() -> None:
    results = json.loads((RESULTS / "quick.json").read_text(encoding="utf-8"))
    results["provenance"]["code"] = fingerprint_code()
    data = json.dumps(results).encode()
    made, full, bitfit = describe(data)
    assert "the same code as handed in" in made and "4,386,178" in full and "3,074" in bitfit
    assert "other code than handed in" in describe(data, b"x = (")[0]
    results["runs"].remove(next(run for run in results["runs"] if run["policy"] == "bitfit" and "test" not in run))
    assert "not contain all 20 cells" in describe(json.dumps(results).encode())[-1]
    results["runs"] = [run for run in results["runs"] if "test" not in run]
    assert "ODD" in describe(json.dumps(results).encode())[-1]
    assert "not contain all 20 cells and the test" in describe(json.dumps(results).encode())[-1]
    assert written.describe_results({}) == ["results.json is missing."]


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"provenance": 1, "runs": {}}', b"[" * 10**5])
def test_results_that_are_none_do_no_harm(data: bytes) -> None:
    (line,) = describe(data)
    assert line.startswith("ODD: ") and "results.json" in line and "/" not in line


@pytest.mark.parametrize("field", ["learning_rate", "batch_size", "validation_accuracy", "test", "policy"])
@pytest.mark.parametrize("value", ["9" * 10**6, float("nan"), None, 10**4000], ids=["long", "nan", "none", "large"])
def test_no_field_makes_a_large_sheet(field: str, value: object) -> None:
    results = json.loads((RESULTS / "quick.json").read_text(encoding="utf-8"))
    results["runs"] = [run | {field: value} for run in results["runs"]]
    assert sum(map(len, describe(json.dumps(results).encode()))) < 2000
