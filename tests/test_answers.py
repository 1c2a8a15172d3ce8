"""`answers.md`: what is committed is what the notebooks and results give; gaps are named."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from helpers import answers, report
from helpers.results import load_results, published
from helpers.settings import CourseError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "quick.json"
FULL_SIZE = ROOT / "results" / "imdb.json"


@pytest.fixture
def notebooks(tmp_path):
    return shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))


def change_answer(notebooks, problem, text):
    for path in notebooks.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if {"answer", f"problem-{problem}"} <= set(cell.metadata.get("tags", [])):
                cell.source = text
        nbformat.write(notebook, path)


def test_the_committed_file_is_what_the_export_gives():
    exported = answers.export_answers(ROOT / "notebooks", load_results(FULL_SIZE))
    assert (ROOT / "answers.md").read_text(encoding="utf-8") == exported


def test_the_problems_stand_in_the_source_documents_order_with_both_tables():
    text = answers.export_answers(ROOT / "notebooks", load_results(RESULTS))
    headings = re.findall(r"^## (Problem \w+: .+)$", text, re.M)
    assert headings == [f"Problem {problem}: {title}" for problem, title in answers.TITLES.items()]
    results = load_results(RESULTS)
    for policy, row in (("full", "Without BitFit"), ("bitfit", "With BitFit")):
        best, tested = results["policies"][policy]["best"], results["policies"][policy]["test"]
        known = published()["policies"][policy]
        rows = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
        assert f"{best['validation_accuracy']:.4f}" in rows[0] and str(best["batch_size"]) in rows[0]
        assert f"{known['best']['validation_accuracy']:.4f}" in rows[0]
        assert str(known["trainable_parameters"]) in rows[1] and str(known["test"]["accuracy"]) in rows[1]
        assert float(rows[1].split("|")[3]) == pytest.approx(tested["accuracy"], abs=1e-5)


def test_the_header_names_profile_model_and_data():
    text = answers.export_answers(ROOT / "notebooks", load_results(RESULTS))
    header = text.split("## Problem")[0]
    assert "profile `quick`" in header and "offline checkpoint" in header and "not the real experiment" in header


def test_the_header_of_a_full_size_run_names_the_stand_in_and_what_was_stopped_early():
    results = load_results(FULL_SIZE)
    header = answers.export_answers(ROOT / "notebooks", results).split("## Problem")[0]
    assert "stand-in" in header and "data: imdb" in header and "72 of 160 epochs" in header
    results["provenance"]["model"]["name"] = "prajjwal1/bert-tiny"
    for policy in results["policies"].values():
        policy["search"] = "exhaustive"
    header = answers.export_answers(ROOT / "notebooks", results).split("## Problem")[0]
    assert "stand-in" not in header and "stopped early" not in header


def test_a_written_answer_reaches_the_export_and_a_missing_one_is_named(notebooks):
    change_answer(notebooks, "1c", "The grid is Google's.")
    assert "The grid is Google's." in answers.export_answers(notebooks, load_results(RESULTS))
    change_answer(notebooks, "1c", answers.PROMPT)
    change_answer(notebooks, "3a", "YOUR ANSWER HERE")  # nbgrader's prompt
    change_answer(notebooks, "3b", "")
    with pytest.raises(CourseError, match="1c, 3a, 3b"):
        answers.export_answers(notebooks, load_results(RESULTS))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"nbformat": 4, "cells": 3}']
)
def test_a_damaged_notebook_is_named_and_the_old_file_stays(notebooks, tmp_path, content):
    out = tmp_path / "answers.md"
    out.write_text("what was there")
    (notebooks / "02_hyperparameters.ipynb").write_bytes(content)
    with pytest.raises(CourseError, match="02_hyperparameters.ipynb"):
        answers.write_answers(notebooks, RESULTS, out)
    assert out.read_text() == "what was there"


def test_the_measured_sentence_is_arithmetic_on_the_results():
    results = json.loads(RESULTS.read_text())
    results["policies"]["full"]["test"] |= {"accuracy": 0.87784, "n": 25000}
    results["policies"]["bitfit"]["test"] |= {"accuracy": 0.6262, "n": 25000}
    text = report.describe_gap(results)
    assert "25.2 points (28.7% relative)" in text and "3,074 of 4,386,178 parameters (0.0701%)" in text
    assert "99.93% fewer" in text and "0.4 points" in text


def test_the_readme_shows_the_committed_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for table in (report.validation_table, report.test_table):
        assert report.to_markdown(table(load_results(RESULTS), published())) in text
    assert report.describe_run(load_results(RESULTS)) in text
