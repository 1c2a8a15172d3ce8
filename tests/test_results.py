"""The committed results belong to the committed checkpoint and reviews, and its card to what made it."""

import importlib.util
import json
from pathlib import Path

import pytest
from conftest import RESULTS

from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import fingerprint_model
from helpers.results import best_run, choose_best, list_policies, load_results, select_runs
from helpers.settings import Settings


def test_quick_results_are_of_this_checkpoint_and_these_reviews():
    settings, run = Settings(), load_results(RESULTS / "quick.json")["provenance"]
    assert run["profile"] == "quick" and run["model"]["fingerprint"] == fingerprint_model(settings.model)
    assert run["data"]["fingerprint"] == fingerprint_reviews(load_reviews(settings))
    recipe = settings.recipe()
    assert {key: recipe[key] for key in run["recipe"]} == run["recipe"]


def test_the_checkpoint_s_card_says_what_its_training_logged():
    folder = Path(Settings().model)
    facts, card = json.loads((folder / "pretraining.json").read_text()), (folder / "README.md").read_text()
    told = [facts["unique_tokens"], facts["steps"], *(value for row in facts["held_out"] for value in row.values())]
    assert all(f"{value:,}" in card for value in told)
    assert f"{facts['seconds'] / 60:.0f} minutes on {facts['threads']} thread" in card


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


def test_runs_that_two_experiments_share_agree_within_what_is_said_of_bf16_and_fp32():
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


@pytest.mark.parametrize("name", ["quick", "imdb"])
def test_pruning_chooses_a_cell_about_as_good_as_the_exhaustive_search_with_less_than_half_the_epochs(name):
    spec = importlib.util.spec_from_file_location("publish", RESULTS.parent / "scripts" / "publish.py")
    spec.loader.exec_module(publish := importlib.util.module_from_spec(spec))
    for policy in ("full", "bitfit"):
        runs = select_runs(load_results(RESULTS / f"{name}.json"), policy=policy)
        pruned, epochs = publish.replay_pruning(runs)
        assert epochs == 36 and sum(len(run["history"]) for run in runs) == 80
        assert 0 <= choose_best(runs)["validation_accuracy"] - pruned["validation_accuracy"] <= 0.003


def test_what_notebook_05_says_of_the_grid_on_imdb():
    results = load_results(RESULTS / "imdb.json")
    full, bitfit = (select_runs(results, policy=policy) for policy in ("full", "bitfit"))
    best = choose_best(full)["validation_accuracy"]
    close = [run["batch_size"] for run in full if run["validation_accuracy"] >= best - 0.005]
    assert len(close) == 9 and set(close) == {8, 16, 32, 64, 128}
    for at, below, lowest in ((0, 11, 0.44), (-1, 6, 0.45)):
        accuracies = [run["history"][at]["validation_accuracy"] for run in bitfit]
        assert sum(accuracy < 0.5 for accuracy in accuracies) == below and round(min(accuracies), 2) == lowest
