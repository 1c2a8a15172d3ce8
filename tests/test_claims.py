"""The measured figures that people read are in the files that they name.

A figure is a link to its file, with what it is in the link's title: a path from a policy's best run
(`best.full.test.accuracy`), or a column and a selection of runs whose mean it is
(`validation_accuracy policy=bitfit learning_rate=0.01`; after `std`, `min` or `max`, that), or the difference or
quotient of two of these (`A - B`, `A / B`).
"""

import importlib
import json
import re
import statistics
from dataclasses import asdict
from functools import reduce

import pytest
from conftest import NOTEBOOKS, RESULTS, ROOT, Listener
from test_prose import PAGES, read

from helpers.results import best_run, load_results, select_runs
from helpers.runs import train_all
from helpers.settings import Run, Settings

LINK = re.compile(r'\[([^\]]+)\]\(([\w./-]+\.json) "([^"]+)"\)')
SUMMARIES = {"std": statistics.stdev, "min": min, "max": max}
VARIED = ("policy", "learning_rate", "epochs", "reviews", "encoder", "head_scale")
ANSWERS, README, MEASUREMENTS = (read(ROOT / name) for name in ("answers.md", "README.md", "docs/measurements.md"))


def look_up(results: dict, what: str) -> float:
    for sign, join in ((" - ", lambda a, b: a - b), (" / ", lambda a, b: a / b)):
        if sign in what:
            return reduce(join, (look_up(results, part) for part in what.split(sign)))
    of, *rest = what.split()
    name, selection = (rest[0], rest[1:]) if of in SUMMARIES else (of, rest)
    if name.startswith("best."):
        _, policy, *path = name.split(".")
        return reduce(lambda value, key: value[key], path, best_run(results, policy))
    pairs = [condition.split("=") for condition in selection]
    wanted = {field: json.loads(value) if value[0].isdigit() else value for field, value in pairs}
    runs = [run for run in results["runs"] if wanted.items() <= run.items()]
    assert runs, f"no run has {wanted}"
    others = {name: {run.get(name) for run in runs} for name in VARIED}
    assert all(len(values) == 1 for values in others.values()), f"{what} mixes {others}"
    return SUMMARIES.get(of, statistics.mean)([run[name] for run in runs])


def is_rounded(text: str, value: float) -> bool:
    """Whether the number in the text is the value, in percent where the text says so, rounded to its own digits."""
    number = re.search(r"-?[\d,]*\d(\.\d+)?", text)[0].replace(",", "")
    if re.search(r"%|point", text):
        value *= 100
    return f"{value:.{len(number.partition('.')[2])}f}" == number


@pytest.mark.parametrize("policy", ["full", "bitfit"])
def test_a_run_of_the_quick_profile_has_its_committed_accuracies_again(policy, tmp_path):
    """Exactly, on the processors tried so far; others may round differently."""
    run = Run(policy, batch_size=128)
    (record,) = train_all(Settings(build=tmp_path), run, workers=0, progress=Listener())
    (known,) = select_runs(load_results(RESULTS / "quick.json"), **asdict(run))
    found, wanted = ([epoch["validation_accuracy"] for epoch in each["history"]] for each in (record, known))
    assert found == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_a_figure_is_in_its_file(path):
    for text, file, what in LINK.findall(read(path)):
        value = look_up(json.loads((path.parent / file).read_text(encoding="utf-8")), what)
        assert is_rounded(text, value), f"{text!r} in {path.name}, but {file} has {value:.5f} for {what!r}"


@pytest.mark.parametrize(
    ("text", "least"),
    [
        (ANSWERS[ANSWERS.index("## Problem 3a") :], 40),
        (README[README.index("## Results") :], 10),
        (re.sub(r"(?s)<!-- begin (\w+):.*?<!-- end \1 -->", "", MEASUREMENTS), 0),
    ],
    ids=["answers", "README", "measurements"],
)
def test_no_accuracy_is_given_without_its_file(text, least):
    assert len(LINK.findall(text)) >= least
    written = [line for line in LINK.sub("", text).splitlines() if not line.startswith(("| With", "Measured"))]
    bare = re.findall(r"\b0\.\d{3,}\b|[\d.]+ points", "\n".join(written))
    assert not bare, f"figures without a file: {bare}"


def test_the_tables_of_the_measurements_are_what_publish_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    publish = importlib.import_module("publish")
    for name, content in publish.describe_all().items():
        assert publish.replace_block(MEASUREMENTS, name, content) == MEASUREMENTS, f"{name}: run scripts/publish.py"


def test_the_usual_speed_in_notebook_02_is_the_measured_one():
    cells = json.loads((ROOT / "benchmarks" / "speed.json").read_text(encoding="utf-8"))["cells"]
    usual = f"{statistics.mean(cell['reference']['training'] for cell in cells):.0f}"
    text = (ROOT / "notebooks" / "02_hyperparameters.ipynb").read_text(encoding="utf-8")
    assert re.findall(r"about (\d+) reviews a second", text) == re.findall(r"seen / (\d+) / 3600", text) == [usual]
