"""The committed results belong to the committed checkpoint and reviews, and say what the cards claim."""

import importlib.util
import json
from pathlib import Path

import pytest

from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import fingerprint_model
from helpers.results import best_run, list_policies, load_results, select_runs
from helpers.settings import Settings

RESULTS = Path(__file__).parents[1] / "results"


def test_quick_results_are_of_this_checkpoint_and_these_reviews():
    settings, run = Settings(), load_results(RESULTS / "quick.json")["provenance"]
    assert run["profile"] == "quick" and run["model"]["fingerprint"] == fingerprint_model(settings.model)
    assert run["data"]["fingerprint"] == fingerprint_reviews(load_reviews(settings))
    recipe = settings.recipe()
    assert {key: recipe[key] for key in run["recipe"]} == run["recipe"]


def test_full_size_results_are_of_this_checkpoint_and_no_text_of_the_data_is_in_them():
    found = load_results(RESULTS / "imdb.json")
    assert found["provenance"]["profile"] == "full"
    assert found["provenance"]["model"]["fingerprint"] == fingerprint_model(Settings().model)
    for policy in list_policies(found):
        test = best_run(found, policy)["test"]
        assert test["n"] == 25000
        assert all(set(row) == {"row", "label", "predicted", "probability"} for row in test["mistakes"])


@pytest.mark.parametrize("name", ["quick", "imdb"])
def test_both_grids_are_complete_and_the_best_run_is_tested(name):
    settings, results = Settings(), load_results(RESULTS / f"{name}.json")
    for policy in ("full", "bitfit"):
        runs = select_runs(results, policy=policy)
        assert [(run["learning_rate"], run["batch_size"]) for run in runs] == settings.cells
        assert [run for run in runs if "test" in run] == [best_run(results, policy)]


def test_runs_that_two_experiments_share_agree_within_what_the_readme_says_of_bf16_and_fp32():
    rate, steps = (load_results(RESULTS / f"lab_{name}.json") for name in ("rate", "steps"))
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
