"""The committed results belong to the committed checkpoint and reviews, and say what the cards claim."""

import importlib.util
import json
from pathlib import Path

import pytest

from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import fingerprint_model
from helpers.results import load_results
from helpers.settings import CourseError, Settings

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize("name", ["quick.json", "quick_seeds.json"])
def test_quick_results_are_of_this_checkpoint_and_these_reviews(name):
    settings, run = Settings(), load_results(RESULTS / name)["provenance"]
    assert run["profile"] == "quick" and run["model"]["fingerprint"] == fingerprint_model(settings.model)
    assert run["data"]["fingerprint"] == fingerprint_reviews(load_reviews(settings))
    recipe = settings.recipe()
    assert {key: recipe[key] for key in run["recipe"]} == run["recipe"]


@pytest.mark.parametrize(
    "path", [RESULTS / "imdb.json", *sorted(RESULTS.glob("standin-*.json"))], ids=lambda path: path.stem
)
def test_full_size_results_are_of_this_checkpoint_and_no_text_of_the_data_is_in_them(path):
    found = load_results(path)
    assert found["provenance"]["profile"] == "full"
    assert found["provenance"]["model"]["fingerprint"] == fingerprint_model(Settings().model)
    for policy in found["policies"].values():
        assert policy["test"]["n"] == 25000
        assert all(set(row) == {"row", "label", "predicted", "probability"} for row in policy["test"]["mistakes"])


def test_the_policies_come_out_in_the_real_experiments_order_with_every_seed():
    policies = load_results(RESULTS / "quick_seeds.json")["policies"]
    runs = zip(*(policies[name]["test_accuracy"] for name in ("full", "bitfit+head", "bitfit")), strict=True)
    for full, with_head, bitfit in runs:
        assert full > with_head > bitfit > 0.5 and full - bitfit >= 0.10


def test_both_grids_are_complete():
    settings = Settings()
    for policy in load_results(RESULTS / "quick.json")["policies"].values():
        assert [(cell["learning_rate"], cell["batch_size"]) for cell in policy["cells"]] == settings.cells


def test_the_full_size_grid_has_every_cell_and_its_best_was_trained_to_the_end():
    settings = Settings()
    for policy in load_results(RESULTS / "imdb.json")["policies"].values():
        assert [(cell["learning_rate"], cell["batch_size"]) for cell in policy["cells"]] == settings.cells
        finished = [cell for cell in policy["cells"] if len(cell["epochs"]) == settings.epochs]
        assert policy["best"]["validation_accuracy"] == max(cell["validation_accuracy"] for cell in finished)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 0, "policies": {}}', '{"schema": 1}'])
def test_a_damaged_or_foreign_results_file_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(CourseError, match="results.json"):
        load_results(path)
    assert path.read_text() == text


def test_runs_that_two_experiments_share_agree_within_what_the_readme_says_of_bf16_and_fp32():
    rate, steps = (json.loads((RESULTS / f"lab_{name}.json").read_text()) for name in ("rate", "steps"))
    assert [each["provenance"]["recipe"]["precision"] for each in (rate, steps)] == ["fp32", "bf16"]
    decides = ("policy", "learning_rate", "seed", "epochs", "reviews", "batch_size")
    first = {tuple(run[name] for name in decides): run["validation_accuracy"] for run in rate["runs"]}
    shared = [
        (first[key], run["validation_accuracy"])
        for run in steps["runs"]
        if (key := tuple(map(run.get, decides))) in first
    ]
    assert len(shared) == 8
    assert all(abs(one - other) <= 0.001 for one, other in shared), shared


@pytest.mark.parametrize("path", ["results/quick.json", "benchmarks/prune.json"])
def test_pruning_chooses_a_cell_as_good_as_the_exhaustive_search_with_less_than_half_the_epochs(path):
    spec = importlib.util.spec_from_file_location("prune", RESULTS.parent / "benchmarks" / "prune.py")
    spec.loader.exec_module(prune := importlib.util.module_from_spec(spec))
    results = json.loads((RESULTS.parent / path).read_text(encoding="utf-8"))
    found = prune.compare(Settings(), results)
    assert found == results.get("found", found)
    for policy in ("full", "bitfit"):
        assert found[policy]["exhaustive"]["epochs"] == 80 and found[policy]["pruned"]["epochs"] == 36
        assert -0.3 <= found[policy]["difference_points"] <= 0
