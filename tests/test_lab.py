"""The lab: runs that change what they say and nothing else, kept, repeatable."""

import shutil
from dataclasses import asdict, replace

import pytest
import torch
from conftest import accuracies, tokenised
from transformers import BertConfig, BertModel

from helpers import exercises, lab
from helpers.models import load_classifier, load_tokenizer
from helpers.prepare import cut, make_start
from helpers.results import load_results
from helpers.settings import CourseError, Run, Settings
from helpers.workers import open_executor


def start_of(settings, **change):
    with make_start(settings, Run("bitfit", seed=0, **change)) as start:
        return load_classifier(start)


def test_every_experiment_changes_one_thing_and_shares_the_rest():
    settings = replace(Settings(), profile="full")
    runs = {name: lab.list_runs(settings, name) for name in lab.list_experiments(4000)}
    for name, varied in {"head": {"head_scale"}, "rate": {"learning_rate"}, "pretraining": {"encoder"}}.items():
        for field in {"reviews", "epochs", "learning_rate", "batch_size", "encoder", "head_scale", "tokens"} - varied:
            assert len({getattr(run, field) for run in runs[name]}) == 1, (name, field)
    assert {round(run.reviews * run.epochs / run.batch_size) for run in runs["data"]} == {2000}
    assert {run.reviews for run in runs["data"]} == {250, 1000, 4000, 20000}
    assert all({run.seed for run in listed} == {0, 1, 2} for listed in runs.values())
    assert len(set(runs["head"]) & set(runs["rate"])) == 6, "bitfit and bitfit+head at 3e-4 are trained once"
    quick = [run for name in runs for run in lab.list_runs(Settings(), name)]
    assert all((run.reviews or 0) <= 2000 and (run.validation or 0) <= 500 for run in quick), "it has no more"


def test_cut_keeps_the_end_sign_of_a_long_review_and_leaves_short_ones(small_bert):
    reviews = tokenised(small_bert)
    short = cut(reviews, 10, tokens=5)
    assert len(short) == 10 and [len(row["input_ids"]) for row in short] == [3, 4, 5, 5, 5] * 2
    for row, whole in zip(short, reviews, strict=False):
        assert row["input_ids"][-1] == load_tokenizer(str(small_bert)).sep_token_id
        assert row["input_ids"][:-1] == whole["input_ids"][: len(row["input_ids"]) - 1]
        assert row["label"] == whole["label"]


def test_a_scaled_head_is_the_drawn_one_times_the_scale(settings):
    plain = start_of(settings, head_scale=1.0000001).classifier.weight
    torch.testing.assert_close(start_of(settings, head_scale=10).classifier.weight, 10 * plain)


def test_a_random_encoder_has_the_shape_and_nothing_of_the_weights(settings):
    known, drawn = load_classifier(settings.model), start_of(settings, encoder="random")
    pairs = [(known.get_parameter(name), value) for name, value in drawn.named_parameters() if value.dim() == 2]
    assert all(first.shape == second.shape and not torch.equal(first, second) for first, second in pairs)


def test_another_encoder_is_a_folder_or_hub_id_with_the_same_vocabulary(settings, tmp_path):
    other = shutil.copytree(settings.model, tmp_path / "other")
    torch.manual_seed(1)
    BertModel(BertConfig.from_pretrained(other, hidden_size=32)).save_pretrained(other)
    drawn = start_of(settings, encoder=str(other))
    assert torch.equal(drawn.bert.pooler.dense.weight, load_classifier(str(other)).bert.pooler.dense.weight)
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text() + "another\n")
    with pytest.raises(CourseError, match="other"):
        start_of(settings, encoder=str(other))
    with pytest.raises(CourseError, match="nowhere/big"):
        start_of(settings, encoder="nowhere/big")


@pytest.mark.xdist_group("workers")  # They are forked by one process, which takes seconds to begin.
def test_runs_are_kept_and_repeat_bit_for_bit_also_after_an_interruption(settings, tmp_path, capsys):
    small = {"reviews": 16, "epochs": 3, "tokens": 6, "validation": 8}
    runs = [Run("bitfit", seed=0, **small), Run("bitfit+head", seed=0, head_scale=10, **small)]
    results = lab.run_lab(settings, "mine", runs, workers=0)
    assert [run["policy"] for run in results["runs"]] == ["bitfit", "bitfit+head"]
    assert {run["steps"] for run in results["runs"]} == {6}
    assert all(value > 0 for value in results["runs"][1]["bias_movement"].values())
    assert load_results(settings.folder / "lab" / "mine.json")["runs"] == results["runs"]
    assert all(run["at_end"] for run in results["runs"]), "a list in a notebook need not say so"
    capsys.readouterr()
    assert lab.run_lab(settings, "mine", runs, workers=0)["runs"] == results["runs"]
    assert capsys.readouterr().out == "", "a finished run was trained again"
    elsewhere = replace(settings, build=tmp_path / "elsewhere")
    repeated = lab.run_lab(elsewhere, "mine", runs, workers=1)["runs"]
    assert accuracies(repeated) == accuracies(results["runs"])
    assert repeated[1]["bias_movement"] == results["runs"][1]["bias_movement"]


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 16}, {"tokens": 64}, {"learning_rate": 3.0001e-4}, {"validation": 9}, {"reviews": 40}, {"seed": 1}],
)
def test_a_table_pools_seeds_and_nothing_else(change):
    measured = {"train_accuracy": 0.6, "trainable_parameters": 258}
    runs = [asdict(Run("head")) | measured | {"validation_accuracy": 0.5}]
    runs += [runs[0] | change | {"validation_accuracy": 0.7}]
    provenance = {"data": {"train": 2000, "validation": 500}}
    table = lab.summarise({"provenance": provenance, "runs": runs})
    assert list(table["validation"]) == ([0.6] if "seed" in change else [0.5, 0.7])


def test_more_reviews_than_there_are_is_one_message(settings):
    with pytest.raises(CourseError, match="needs 2,001 reviews; there are 32"):
        lab.run_lab(settings, "mine", [Run("head", reviews=2001)], workers=0)
    for name in ("nonsense", ["head"]):
        with pytest.raises(CourseError, match="Unknown experiment"):
            lab.list_runs(settings, name)
    with pytest.raises(CourseError, match="`seeds` must be a whole number of 1 or more"):
        lab.list_runs(settings, "head", "3")
    with pytest.raises(CourseError, match="nonsense.json. The course has full-size results of: .*, head, "):
        lab.load_measured("nonsense")


def test_costs_are_those_of_one_thread(settings, monkeypatch):
    """CPU time adds up all threads, and what they wait."""
    seen = []

    def build(*given, **options):
        torch.set_num_threads(3)  # as a student's code may
        seen.append(torch.get_num_threads())

    monkeypatch.setattr(lab, "build_trainer", build)
    torch.set_num_threads(2)
    with pytest.raises(CourseError, match="AttributeError"):
        lab._measure_cost(settings, "head", 8, 4)
    assert seen == [1]


@pytest.mark.xdist_group("workers")
def test_costs_are_measured_for_each_policy(settings):
    table = lab.tabulate_costs(lab.measure_cost(settings, steps=3, batch_size=4))
    assert list(table.index) == ["full", "bitfit", "bitfit+head", "head"]
    assert all(cell.endswith(" (100%)") for cell in table.loc["full"][1:])
    assert not table.loc["bitfit", "optimizer (KB)"].endswith("(100%)")


def test_each_cost_has_its_own_policys_share_of_full_and_may_be_unknown():
    costs = lab.load_measured("cost")
    told = lab.tabulate_costs(costs).loc["bitfit+head"].tolist()
    assert told == [3330, "179.4 (80%)", "248.0 (81%)", "26.7 (0.08%)", "15.3 (0.09%)"]
    for run in costs["runs"]:
        run["training_memory_gb"] = 0.0  # The system does not report it.
    assert {*lab.tabulate_costs(costs)["memory of training (MB)"]} == {"not measured here"}


def test_what_goes_wrong_while_costs_are_measured_is_one_sentence(settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"Could not read or write .*file.*: [^.]*\. Finished work is"):
        lab.measure_cost(replace(settings, build=tmp_path / "file"))
    monkeypatch.setattr(lab, "open_executor", lambda workers, scheduler: open_executor(0, None))  # this process
    monkeypatch.setattr(exercises, "init_trainer", lambda *given, **named: 1 / 0)
    with pytest.raises(CourseError, match="ZeroDivisionError"):
        lab.measure_cost(settings, steps=8, batch_size=4)
