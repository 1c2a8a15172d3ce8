"""The grid: complete, tested, pruned when asked, and repaired where a file is damaged."""

import math
import shutil
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import Listener, accuracies, small_settings
from solutions import load_with, make_tester, model_with
from transformers.utils import logging

from helpers import exercises, lab, runs, sweep, training
from helpers.checkpoints import read_sealed
from helpers.data import load_reviews
from helpers.models import load_classifier, load_tokenizer
from helpers.prepare import prepare
from helpers.results import best_run, is_whole, list_policies, load_results, select_runs
from helpers.runs import find_folder, train_all
from helpers.settings import CourseError, Run, Settings
from helpers.workers import open_executor

pytestmark = pytest.mark.xdist_group("workers")  # They are forked by one process, which takes seconds to begin.


@pytest.fixture(scope="module")
def searched(sources, tmp_path_factory):
    """A whole search, to be looked at: its settings and its results."""
    settings = small_settings(sources, tmp_path_factory.mktemp("searched"))
    return settings, sweep.run_sweep(settings, workers=0)


@pytest.fixture
def results(searched, settings):
    """The results of a search whose files may be changed, those of `settings`."""
    shutil.copytree(searched[0].build, settings.build)
    return searched[1]


def test_the_best_run_of_each_policy_is_tested_once_and_its_model_kept(searched, capsys):
    settings, results = searched
    assert list_policies(results) == ["full", "bitfit"]
    for policy in ("full", "bitfit"):
        runs = select_runs(results, policy=policy)
        assert [(run["learning_rate"], run["batch_size"]) for run in runs] == settings.cells
        best = best_run(results, policy)
        assert best["validation_accuracy"] == max(run["validation_accuracy"] for run in runs)
        assert [run for run in runs if "test" in run] == [best] and best["test"]["n"] == 40
        assert (sweep.model_folder(settings, results, policy) / "model.safetensors").exists()
    assert best_run(results, "full")["test"]["bias_movement"]["bert.pooler.dense.bias"] > 0
    capsys.readouterr()
    assert sweep.run_sweep(settings, workers=0) == results and capsys.readouterr().out == ""


def test_the_library_reports_nothing_where_students_load_models_themselves(settings, monkeypatch, capfd):
    """Its bars and its table of missing weights would come 40 times."""
    monkeypatch.setattr(exercises, "init_model", model_with(load=load_with()))
    monkeypatch.setattr(exercises, "init_tester", make_tester(lambda folder: {"model": load_with()(folder)}))
    monkeypatch.setattr(sweep, "choose_progress", Listener)
    logging.enable_progress_bar()
    sweep.run_sweep(settings, ["bitfit"], workers=0)
    assert capfd.readouterr() == ("", "")


def test_a_mistake_is_the_review_that_it_names(searched):
    """Checked one review at a time, with the plain model: nothing is padded, cut into parts or ordered."""
    settings, results = searched
    test, tokenizer = load_reviews(settings)["test"], load_tokenizer(settings.model)
    model = load_classifier(str(sweep.model_folder(settings, results, "full"))).eval()
    mistakes = best_run(results, "full")["test"]["mistakes"]
    assert mistakes
    for mistake in mistakes:
        review = test[mistake["row"]]
        probabilities = model(**tokenizer(review["text"], return_tensors="pt")).logits.softmax(-1)[0]
        assert review["label"] == mistake["label"] != mistake["predicted"] == probabilities.argmax()
        assert probabilities.max().item() == pytest.approx(mistake["probability"], abs=1e-3)


def test_provenance_names_what_the_figures_rest_on_and_a_later_policy_joins_the_file(settings, results):
    run = results["provenance"]
    assert run["profile"] == "quick" and run["model"]["fingerprint"] and run["data"]["fingerprint"]
    assert (run["data"]["train"], run["data"]["validation"], run["data"]["test"]) == (32, 8, 40)
    assert run["recipe"]["seed"] == 3463 and run["versions"]["torch"] and run["hardware"]["cores"]
    assert run["wall_seconds"] == pytest.approx(sum(record["seconds"] for record in results["runs"]), abs=0.1)
    later = sweep.run_sweep(settings, ["head"], workers=0)
    assert list_policies(later) == ["full", "bitfit", "head"]
    assert [run for run in later["runs"] if run["policy"] != "head"] == results["runs"]


@pytest.mark.parametrize("epochs", [0.5, 1, 2, 2.5, 3, 4, 16])
def test_pruning_begins_with_every_run_and_ends_with_whole_ones(epochs):
    (_, share), *others = rounds = sweep.rungs(Settings(epochs=epochs), prune=True)
    assert share == 1 and all(share < 1 for _, share in others)
    assert rounds[-1][0] >= epochs and rounds == sorted(rounds)


@pytest.mark.parametrize(("policies", "epochs"), [("head", 2), (["head", "head"], 4.0), ("head", 2.5)])
def test_pruning_takes_few_epochs_and_a_policy_alone_or_a_value_named_twice(settings, policies, epochs):
    settings = replace(settings, epochs=epochs, learning_rates=(3e-4, 1e-4, 0.0003))
    results = sweep.run_sweep(settings, policies, workers=0, prune=True)
    assert sorted(len(run["history"]) for run in results["runs"]) == [1, 1, 2, math.ceil(epochs)]


@pytest.mark.parametrize("until", [1, 3])
def test_pruning_keeps_what_a_search_without_it_has_trained_further(settings, until):
    longer = replace(settings, epochs=4)
    train_all(longer, grid := sweep.list_grid(longer, "head"), workers=0, until=until, progress=Listener())
    reviews, provenance = prepare(longer)
    for run in grid:  # As a search that is stopped in the last epoch leaves them.
        training.train_run(longer, run, reviews, find_folder(longer, run, provenance), until=3)
    sweep.run_sweep(longer, "head", workers=0, prune=True)
    assert len(list(longer.folder.glob("runs/*/checkpoint-*/seal.json"))) >= 3


def test_a_tester_that_is_none_is_one_sentence_after_a_single_run_too(settings, monkeypatch):
    monkeypatch.setattr(training.exercises, "init_tester", lambda directory: None)
    monkeypatch.setattr("helpers.runs.open_executor", lambda *given: open_executor(0, None))  # this process
    with pytest.raises(CourseError, match="init_tester returns: expected transformers.Trainer, found NoneType"):
        sweep.run_cell(settings, Run("head", epochs=1))


def test_no_policy_is_refused(settings):
    with pytest.raises(CourseError, match="list of runs is empty"):
        sweep.run_sweep(settings, [])


NO_RUNS = [["bitfit"], [[Run("bitfit")]], [Run("full"), {"policy": "bitfit"}], SimpleNamespace(policy="bitfit")]


@pytest.mark.parametrize("runs", NO_RUNS)
def test_what_is_no_run_is_named(settings, runs):
    for train in (lambda given: train_all(settings, given), lambda given: lab.run_lab(settings, "own", given)):
        with pytest.raises(CourseError, match="must contain only Run.*bitfit"):
            train(runs)


def test_an_argument_of_another_type_is_not_blamed_on_the_exercises(settings):
    for wrong in (None, 3, ("full", ["bitfit"])):
        with pytest.raises(CourseError, match="Are the arguments of this call what they should be"):
            sweep.run_sweep(settings, wrong)


def test_a_run_that_is_trained_again_keeps_its_record_until_then(settings, results, monkeypatch):
    model = sweep.model_folder(settings, results, "bitfit")
    shutil.rmtree(model)
    monkeypatch.setattr(runs, "watch", Mock(side_effect=CourseError("interrupted")))
    with pytest.raises(CourseError, match="interrupted"):
        sweep.run_sweep(settings, "bitfit", workers=0)
    assert read_sealed(model.parent / "record.json")
    monkeypatch.undo()
    assert accuracies(sweep.run_sweep(settings, "bitfit", workers=0)["runs"]) == accuracies(results["runs"])
    assert model.exists()


@pytest.mark.parametrize("workers", [-1, 1.5, "two"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(settings, workers):
    with pytest.raises(CourseError, match="`workers` must be a whole number of 0 or more"):
        sweep.run_sweep(settings, "full", workers)


def test_damaged_results_and_models_are_set_aside_and_made_again(settings, results, capsys):
    folder, path = settings.folder, settings.folder / "results.json"
    path.write_text(path.read_text()[:100])
    model = sweep.model_folder(settings, results, "bitfit")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    for test in model.parent.glob("test-*.json"):
        test.write_text("{")
    again = sweep.run_sweep(settings, ["bitfit"], workers=0)
    assert accuracies(again["runs"]) == accuracies(results["runs"])
    assert best_run(again, "bitfit")["test"] == best_run(results, "bitfit")["test"]
    assert list(folder.glob("results-unreadable-*")) and list(folder.glob("runs/*-model-unreadable-*"))
    assert capsys.readouterr().out.count(" is damaged") == 2
    model = sweep.model_folder(settings, again, "bitfit")
    (model / ".DS_Store").write_bytes(b"the Finder's")
    assert sweep.run_sweep(settings, ["bitfit"], workers=0) and capsys.readouterr().out == ""
    path.write_text(path.read_text().replace('"profile": "quick"', '"profile": "full"'))
    assert sweep.run_sweep(settings, ["bitfit"], workers=0)["provenance"]["profile"] == "quick"
    shutil.rmtree(model)
    sweep.run_sweep(settings, ["bitfit"], workers=0)
    assert "is missing, so its run is trained again" in capsys.readouterr().out and load_classifier(str(model))
    assert not list(folder.glob("runs/*/record-unreadable-*")), "a record that is whole is not set aside"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 0}', '{"schema": 2}', '{"schema": 2, "runs": [1]}'])
def test_a_damaged_or_foreign_results_file_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(CourseError, match="results.json"):
        load_results(path)
    path.write_text('{"schema": 1, "policies": {}}')
    with pytest.raises(CourseError, match=r"another version of the course \(ValueError\('schema 1'\)\)"):
        load_results(path)


def test_while_no_run_has_left_guessing_the_training_loss_decides_which_lead():
    def choose(*epochs):
        names = ("validation_accuracy", "loss")
        reports = [{"history": [dict(zip(names, epoch, strict=True))]} for epoch in epochs]
        records = {Run("bitfit", seed=seed): report for seed, report in enumerate(reports)}
        return [run.seed for run in sweep.choose_runs(records, 1, 2)]

    assert choose((0.51, 0.693), (0.49, 0.690), (0.50, 0.691)) == [1, 2]
    assert choose((0.51, 0.693), (0.49, 0.690), (0.60, 0.691)) == [0, 2]


def test_pruning_trains_less_than_half_the_epochs_and_can_be_completed(settings, capsys):
    wide = replace(settings, learning_rates=(3e-4, 1e-4, 5e-5, 3e-5, 1e-5), batch_sizes=(8, 16), epochs=4)
    pruned = sweep.run_sweep(wide, ["full"], workers=0, prune=True)
    lengths = [len(run["history"]) for run in pruned["runs"]]
    assert sorted(lengths) == [1] * 6 + [2] * 2 + [4] * 2 and sum(map(is_whole, pruned["runs"])) == 2
    assert not list(wide.folder.glob("runs/*/checkpoint-*"))
    capsys.readouterr()
    assert sweep.run_sweep(wide, ["full"], workers=0, prune=True) == pruned and capsys.readouterr().out == ""

    complete = sweep.run_sweep(wide, ["full"], workers=0)
    assert all(map(is_whole, complete["runs"]))
    for short, whole in zip(accuracies(pruned["runs"]), accuracies(complete["runs"]), strict=True):
        assert whole[: len(short)] == short
