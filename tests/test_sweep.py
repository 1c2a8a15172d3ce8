"""The grid search on a 16-wide BERT and 40 rows: complete, resumable, repeatable, never mixed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
from transformers import BertConfig, BertForSequenceClassification, set_seed

from helpers import sweep
from helpers.results import load_results
from helpers.settings import CourseError, Settings

WORDS = ["the", "film", "was", "not", "good", "bad", "dull", "bright", "slow", "fine", "but", "and", "never", "always"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A model folder and a data folder, small enough for a cell to take a second."""
    folder = tmp_path_factory.mktemp("sources")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    set_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).bert.save_pretrained(folder / "model")
    (folder / "model" / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "data").mkdir()
    for split, offset in (("train", 0), ("test", 3)):
        texts = [" ".join(WORDS[(i * 7 + j * (offset + 1)) % len(WORDS)] for j in range(4 + i % 5)) for i in range(40)]
        pd.DataFrame({"text": texts, "label": [i % 2 for i in range(40)]}).to_csv(
            folder / "data" / f"{split}.csv", index=False
        )
    return folder


@pytest.fixture
def settings(sources, tmp_path):
    return Settings(
        model=str(sources / "model"),
        data=str(sources / "data"),
        learning_rates=(3e-4, 1e-4),
        batch_sizes=(8, 16),
        epochs=2,
        build=tmp_path / "build",
    )


def accuracies(results):
    return {
        policy: [[epoch["validation_accuracy"] for epoch in cell["epochs"]] for cell in found["cells"]]
        for policy, found in results["policies"].items()
    }


def losses(results):
    return [[epoch["loss"] for epoch in cell["epochs"]] for cell in results["policies"]["full"]["cells"]]


def test_every_cell_once_then_nothing_is_repeated(settings):
    said = []
    results = sweep.run_sweep(settings, workers=2, say=said.append)
    for found in results["policies"].values():
        assert [(cell["learning_rate"], cell["batch_size"]) for cell in found["cells"]] == settings.cells
        assert all(len(cell["epochs"]) == settings.epochs for cell in found["cells"])
        best = max(cell["validation_accuracy"] for cell in found["cells"])
        assert found["best"]["validation_accuracy"] == best
        assert found["test"]["n"] == 40
    assert results["policies"]["full"]["test"]["bias_movement"]["bert.pooler.dense.bias"] > 0
    assert len(said) == 1 + 2 * len(settings.cells)
    kept = list((settings.folder / "checkpoints").iterdir())
    assert sorted(folder.name.split("-")[0] for folder in kept) == ["bitfit", "full"]

    again = []
    assert sweep.run_sweep(settings, workers=2, say=again.append) == results
    assert again == []

    alone = replace(settings, build=settings.build.with_name("alone"))
    other = sweep.run_sweep(alone, workers=1, say=lambda line: None)
    assert accuracies(other) == accuracies(results) and losses(other) == losses(results)


def test_provenance_names_what_the_figures_rest_on(settings):
    run = sweep.run_sweep(settings, policies=["head"], workers=1, say=lambda line: None)["provenance"]
    assert run["profile"] == "quick" and run["model"]["fingerprint"] and run["data"]["fingerprint"]
    assert (run["data"]["train"], run["data"]["validation"], run["data"]["test"]) == (32, 8, 40)
    assert run["recipe"]["seed"] == 3463 and run["versions"]["torch"] and run["hardware"]["cores"]
    assert run["threads"] == 1 and run["wall_seconds"] > 0


def test_a_killed_sweep_goes_on_where_it_stopped(settings):
    script = (
        "from pathlib import Path; from helpers.settings import Settings; from helpers.sweep import run_sweep\n"
        f"run_sweep(Settings(model={settings.model!r}, data={settings.data!r}, learning_rates=(3e-4, 1e-4),"
        f" batch_sizes=(8, 16), epochs=2, build=Path({str(settings.build)!r})), ['bitfit'], 2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("[ 1/4]"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while process_group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not process_group_lives(process.pid), "the workers outlived the sweep that started them"

    said = []
    results = sweep.run_sweep(settings, ["bitfit"], workers=1, say=said.append)
    found = results["policies"]["bitfit"]
    assert [(cell["learning_rate"], cell["batch_size"]) for cell in found["cells"]] == settings.cells
    assert len(said) < 1 + len(settings.cells)
    fresh = sweep.run_sweep(
        replace(settings, build=settings.build.with_name("fresh")), ["bitfit"], workers=1, say=lambda line: None
    )
    assert accuracies(fresh) == accuracies(results)


def process_group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_other_data_model_or_recipe_is_refused_by_name(settings, sources, tmp_path):
    sweep.run_sweep(settings, ["head"], workers=1, say=lambda line: None)
    with pytest.raises(CourseError, match="another recipe"):
        sweep.run_sweep(replace(settings, epochs=1), ["head"], workers=1)
    changed = tmp_path / "changed"
    changed.mkdir()
    for split in ("train", "test"):
        rows = pd.read_csv(sources / "data" / f"{split}.csv")
        rows.loc[0, "text"] = "the film was bright"
        rows.to_csv(changed / f"{split}.csv", index=False)
    with pytest.raises(CourseError, match="another data"):
        sweep.run_sweep(replace(settings, data=str(changed)), ["head"], workers=1)


def test_an_unknown_policy_is_refused(settings):
    with pytest.raises(CourseError, match="bitfit\\+head"):
        sweep.run_sweep(settings, ["bitfti"])


def test_damaged_files_are_named_and_nothing_is_lost(settings):
    results = sweep.run_sweep(settings, ["head"], workers=1, say=lambda line: None)
    path = settings.folder / "results.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(CourseError, match="Move it aside"):
        sweep.run_sweep(settings, ["head"], workers=1)
    path.unlink()
    assert accuracies(sweep.run_sweep(settings, ["head"], workers=1)) == accuracies(results)
    assert load_results(path)["policies"] == results["policies"]
    (settings.folder / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CourseError, match="cannot be read"):
        sweep.run_sweep(settings, ["head"], workers=1)


def test_two_sweeps_in_one_folder_are_refused(settings):
    import filelock

    settings.folder.mkdir(parents=True)
    with filelock.FileLock(settings.folder / "sweep.lock"), pytest.raises(CourseError, match="Another sweep"):
        sweep.run_sweep(settings, ["head"])
