"""The grid search on a 16-wide BERT and 40 rows: complete, resumable, repeatable, never mixed."""

import glob
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from optuna.trial import TrialState
from transformers import BertConfig, BertForSequenceClassification, set_seed

from helpers import exercises, sweep, training
from helpers.progress import Progress
from helpers.results import load_results
from helpers.settings import CourseError, Settings
from helpers.study import CellQueue, Task, open_storage

QUIET = Progress(lambda line: None)
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
    results = sweep.run_sweep(settings, workers=2, progress=Progress(said.append))
    for found in results["policies"].values():
        assert [(cell["learning_rate"], cell["batch_size"]) for cell in found["cells"]] == settings.cells
        assert all(len(cell["epochs"]) == settings.epochs for cell in found["cells"])
        best = max(cell["validation_accuracy"] for cell in found["cells"])
        assert found["best"]["validation_accuracy"] == best
        assert found["test"]["n"] == 40
    assert results["policies"]["full"]["test"]["bias_movement"]["bert.pooler.dense.bias"] > 0
    assert len(said) == 1 + 2 * len(settings.cells) and "cells to train" in said[0]
    kept = list((settings.folder / "checkpoints").iterdir())
    assert sorted(folder.name.split("-")[0] for folder in kept) == ["bitfit", "full"]

    again = []
    assert sweep.run_sweep(settings, workers=2, progress=Progress(again.append)) == results
    assert again == []

    alone = replace(settings, build=settings.build.with_name("alone"))
    other = sweep.run_sweep(alone, workers=1, progress=QUIET)
    assert accuracies(other) == accuracies(results) and losses(other) == losses(results)


def test_provenance_names_what_the_figures_rest_on(settings):
    run = sweep.run_sweep(settings, policies=["head"], workers=0, progress=QUIET)["provenance"]
    assert run["profile"] == "quick" and run["model"]["fingerprint"] and run["data"]["fingerprint"]
    assert (run["data"]["train"], run["data"]["validation"], run["data"]["test"]) == (32, 8, 40)
    assert run["recipe"]["seed"] == 3463 and run["versions"]["torch"] and run["hardware"]["cores"]
    assert run["threads"] == 1 and run["wall_seconds"] > 0


def process_group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_other_data_model_or_recipe_is_refused_by_name(settings, sources, tmp_path):
    sweep.run_sweep(settings, ["head"], workers=0, progress=QUIET)
    with pytest.raises(CourseError, match="another recipe"):
        sweep.run_sweep(replace(settings, epochs=1), ["head"], workers=0)
    changed = tmp_path / "changed"
    changed.mkdir()
    for split in ("train", "test"):
        rows = pd.read_csv(sources / "data" / f"{split}.csv")
        rows.loc[0, "text"] = "the film was bright"
        rows.to_csv(changed / f"{split}.csv", index=False)
    with pytest.raises(CourseError, match="another data"):
        sweep.run_sweep(replace(settings, data=str(changed)), ["head"], workers=0)


def test_an_unknown_policy_is_refused(settings):
    with pytest.raises(CourseError, match="bitfit\\+head"):
        sweep.run_sweep(settings, ["bitfti"])


def test_damaged_files_are_set_aside_and_the_rest_is_kept(settings):
    results = sweep.run_sweep(settings, ["head"], workers=0, progress=QUIET)
    folder = settings.folder
    (folder / "results.json").write_text((folder / "results.json").read_text()[:100])
    (folder / "study.db").write_bytes(b"not a database" * 100)
    (folder / "records" / "head-half.json").write_text("{")
    checkpoint = next((folder / "checkpoints").iterdir())
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)
    said = []
    again = sweep.run_sweep(settings, ["head"], workers=0, progress=Progress(said.append))
    assert again["policies"] == results["policies"]
    assert not any("to train" in line for line in said)
    for name in ("results", "study", "head-half", checkpoint.name):
        assert list(folder.rglob(f"{name}-unreadable-*")), name
        assert any("damaged" in line and f"{name}-unreadable" in line for line in said), name


@pytest.mark.parametrize(("name", "workers"), [("preprocess_dataset", 1), ("init_trainer", 0)])
def test_a_function_that_is_not_written_yet_is_named_without_a_traceback(settings, monkeypatch, name, workers):
    def stub(*arguments, **named):
        raise NotImplementedError(f"write {name}")

    monkeypatch.setattr(exercises, name, stub)
    with pytest.raises(CourseError, match=f"write {name}") as raised:
        sweep.run_sweep(settings, workers=workers, progress=QUIET)
    assert raised.value._render_traceback_() == [f"error: write {name}"]


def test_two_sweeps_in_one_folder_are_refused(settings):
    import filelock

    settings.folder.mkdir(parents=True)
    with filelock.FileLock(settings.folder / "sweep.lock"), pytest.raises(CourseError, match="Another sweep"):
        sweep.run_sweep(settings, ["head"])


def test_a_stopped_cell_goes_on_after_its_last_whole_epoch_to_the_same_result(settings, tmp_path):
    reviews, _ = training.prepare(settings)

    def train(folder, on_step=lambda: None):
        told = []
        trainer, record = training.train_cell(
            settings, reviews, "full", 3e-4, 8, folder, on_step=on_step, on_epoch=told.append
        )
        return trainer.model.state_dict(), record, told

    class Stopped(Exception):
        pass

    steps = []

    def stop_in_the_second_epoch():
        steps.append(1)
        if len(steps) == 6:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "cell", stop_in_the_second_epoch)
    weights, record, told = train(tmp_path / "cell", lambda: steps.append(1))
    assert len(steps) == 6 + 4 and [epoch["epoch"] for epoch in told] == [1, 2]
    straight, expected, _ = train(None)
    assert [epoch["loss"] for epoch in record["epochs"]] == [epoch["loss"] for epoch in expected["epochs"]]
    assert all(torch.equal(weights[name], straight[name]) for name in straight)


@pytest.mark.parametrize("damage", ["truncated", "changed", "unsealed"])
def test_a_damaged_epoch_is_set_aside_and_trained_again(settings, tmp_path, damage, capsys):
    reviews, _ = training.prepare(settings)
    _, first = training.train_cell(settings, reviews, "bitfit", 3e-4, 8, tmp_path / "cell", until=1)
    checkpoint = next((tmp_path / "cell").glob("checkpoint-*"))
    weights = checkpoint / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    else:
        (checkpoint / "seal.json").unlink()
    _, record = training.train_cell(settings, reviews, "bitfit", 3e-4, 8, tmp_path / "cell")
    assert record["epochs"][0]["loss"] == first["epochs"][0]["loss"] and len(record["epochs"]) == 2
    kept = list(tmp_path.glob("cell-checkpoint-*-unreadable-*"))
    assert len(kept) == (damage != "unsealed") and ("damaged" in capsys.readouterr().out) == bool(kept)


def test_workers_killed_at_random_until_the_grid_is_complete(settings):
    """SIGKILL for the whole sweep or for a worker of it, at random moments after it has trained an epoch."""
    settings = replace(settings, epochs=12)
    moments = random.Random(0)
    for attempt in range(30):
        process = start_sweep(settings, ["bitfit"], workers=2)
        before = epochs_trained(settings)
        while process.poll() is None and epochs_trained(settings) == before:
            time.sleep(0.05)
        # Longer and longer, so that the grid is completed on a slow machine too.
        deadline = time.monotonic() + moments.uniform(0, 0.5) * 2**attempt
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        victims = child_workers(process.pid) if attempt % 2 else []
        kill(moments.choice(victims) if victims else process.pid)
        if victims:
            time.sleep(2)
            kill(process.pid)
        process.wait()
        wait_for_the_end_of(process.pid)
    assert process.returncode == 0 and attempt > 1
    storage = optuna.storages.RDBStorage(f"sqlite:///{settings.folder}/study.db")
    trials = optuna.load_study(study_name="quick-bitfit", storage=storage).get_trials(states=[TrialState.COMPLETE])
    assert sorted(tuple(trial.user_attrs["cell"]) for trial in trials) == sorted(settings.cells)
    fresh = replace(settings, build=settings.build.with_name("fresh"))
    expected = sweep.run_sweep(fresh, ["bitfit"], workers=0, progress=QUIET)
    assert accuracies(load_results(settings.folder / "results.json")) == accuracies(expected)


def epochs_trained(settings) -> set[str]:
    """The epochs' checkpoints of unfinished cells and the records of finished ones."""
    patterns = ("epochs/*/*/seal.json", "records/*")
    return {path for pattern in patterns for path in glob.glob(str(settings.folder / pattern))}


def test_two_processes_that_race_never_get_the_same_cell(settings):
    settings.folder.mkdir(parents=True)
    queue = CellQueue(settings, "full", open_storage(settings))
    queue.begin({"data": "the same"})
    grid = replace(settings, learning_rates=tuple(10**-n for n in range(1, 9)), batch_sizes=(8, 16, 32))
    wide = CellQueue(grid, "full", queue.storage)
    tasks = [Task(cell, grid.epochs) for cell in grid.cells]
    wide.hand_out(tasks)
    wide.hand_out(tasks)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=claim_all, args=(grid, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    claimed = [results.get(timeout=600) for _ in racers]
    for racer in racers:
        racer.join()
    assert sorted(claimed[0] + claimed[1]) == sorted(grid.cells)
    assert not wide.unfinished(tasks) and not wide.look()[1]


def claim_all(settings, results):
    queue = CellQueue(settings, "full", open_storage(settings))
    cells = []
    while True:
        with queue.claim() as claimed:
            if claimed is None:
                break
            trial, task = claimed
            cells.append(task.cell)
            rate, size = task.cell
            epochs = [{"epoch": n, "loss": 0.5, "validation_accuracy": 0.5, "seconds": 0.1} for n in (1, 2)]
            record = {"learning_rate": rate, "batch_size": size, "epochs": epochs, "validation_accuracy": 0.5}
            assert queue.finish(trial, task, record)
    results.put(cells)


def test_while_no_cell_has_left_guessing_the_training_loss_decides_which_lead():
    def order(*epochs):
        records = {
            (1e-4, size): {"epochs": [dict(zip(("validation_accuracy", "loss"), epoch, strict=True))]}
            for size, epoch in enumerate(epochs)
        }
        return [size for _, size in sweep.order_cells(records, list(records), 1)]

    assert order((0.51, 0.693), (0.49, 0.690), (0.50, 0.691)) == [1, 2, 0]
    assert order((0.51, 0.693), (0.49, 0.690), (0.60, 0.691)) == [2, 0, 1]
    assert order() == []


def test_pruning_trains_less_than_half_the_epochs_and_can_be_completed(settings):
    wide = replace(settings, learning_rates=(3e-4, 1e-4, 5e-5, 3e-5, 1e-5), batch_sizes=(8, 16), epochs=4)
    pruned = sweep.run_sweep(wide, ["full"], workers=0, prune=True, progress=QUIET)["policies"]["full"]
    assert pruned["search"] == "pruned"
    lengths = [len(cell["epochs"]) for cell in pruned["cells"]]
    assert sorted(lengths) == [1] * 6 + [2] * 2 + [4] * 2 and sum(lengths) <= 40 / 2
    records = {(cell["learning_rate"], cell["batch_size"]): cell for cell in pruned["cells"]}
    led = sweep.order_cells(records, wide.cells, 1)[:4]
    assert all(cell in led for cell, record in records.items() if len(record["epochs"]) > 1)
    assert not list((wide.folder / "epochs").iterdir())
    assert sweep.run_sweep(wide, ["full"], workers=0, prune=True, progress=QUIET)["policies"]["full"] == pruned

    complete = sweep.run_sweep(wide, ["full"], workers=0, progress=QUIET)["policies"]["full"]
    assert complete["search"] == "exhaustive"
    assert all(len(cell["epochs"]) == 4 for cell in complete["cells"])
    for cell, whole in zip(pruned["cells"], complete["cells"], strict=True):
        same = [(epoch["loss"], epoch["validation_accuracy"]) for epoch in whole["epochs"][: len(cell["epochs"])]]
        assert same == [(epoch["loss"], epoch["validation_accuracy"]) for epoch in cell["epochs"]]


@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"]).returncode != 0,
    reason="a small disk of its own needs Linux with user namespaces",
)
def test_a_full_disk_stops_the_sweep_with_one_message_and_loses_nothing(settings, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    code = sweep_code(replace(settings, build=disk), ["bitfit"], 1)
    # The disk is full up to a few KiB, later it is not; what was on it is copied out, for it goes with the namespace.
    script = (
        f"mount -t tmpfs -o size=1500k tmpfs {disk} && dd if=/dev/zero of={disk}/filler bs=1k count=1200 2>/dev/null;"
        f'"$0" -c "$1"; echo "first: $?"; rm {disk}/filler; "$0" -c "$1"; echo "second: $?";'
        f"cp -r {disk}/quick/results.json {kept}"
    )
    run = subprocess.run(["unshare", "-rm", "sh", "-c", script, sys.executable, code], capture_output=True, text=True)
    assert "second: 0" in run.stdout and "first: 0" not in run.stdout, run.stdout + run.stderr
    assert "could not write" in run.stderr.lower() and "Traceback" not in run.stderr, run.stderr
    assert len(load_results(kept / "results.json")["policies"]["bitfit"]["cells"]) == len(settings.cells)


@pytest.fixture
def notebook_kernel(monkeypatch, tmp_path):
    """A kernel as a notebook has it, that shows widgets; and its client."""
    for name in ("CI", "COURSE_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    manager, client = start_new_kernel(kernel_name="python3")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("way", ["button", "interrupt"])
def test_a_sweep_stopped_in_a_notebook_says_so_calmly_and_goes_on_later(settings, notebook_kernel, way):
    manager, client = notebook_kernel
    client.execute(sweep_code(replace(settings, batch_sizes=(8, 16, 32, 64)), ["head"], 1).split("try:")[0])
    client.execute("run_sweep(settings, ['head'], 1)")
    button, displayed, errors, texts = None, False, [], []
    deadline = time.monotonic() + 120
    while not errors and time.monotonic() < deadline:
        message = client.get_iopub_msg(timeout=60)
        kind, content = message["msg_type"], message["content"]
        if kind == "comm_open" and content["data"]["state"].get("_model_name") == "ButtonModel":
            button = content["comm_id"]
        elif kind == "display_data" and not displayed:
            displayed = True
            if way == "button":
                click(client, button)
            else:
                manager.interrupt_kernel()
        elif kind == "error":
            errors.append(content)
        elif kind == "stream":
            texts.append(content["text"])
    assert [error["traceback"] for error in errors] == [[sweep.STOPPED]]
    assert "Traceback" not in "".join(texts) and "0 of 8 cells" in texts[-1], texts
    results = sweep.run_sweep(replace(settings, batch_sizes=(8, 16, 32, 64)), ["head"], 1, progress=QUIET)
    assert all(len(cell["epochs"]) == settings.epochs for cell in results["policies"]["head"]["cells"])


def click(client, button: str) -> None:
    """Send what a front end sends for a click."""
    content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    client.shell_channel.send(client.session.msg("comm_msg", content))


def sweep_code(settings, policies, workers) -> str:
    return (
        "import sys; from pathlib import Path; from helpers.settings import CourseError, Settings\n"
        "from helpers.sweep import run_sweep\n"
        f"settings = Settings(model={settings.model!r}, data={settings.data!r}, storage={settings.storage!r},"
        f" learning_rates={settings.learning_rates}, batch_sizes={settings.batch_sizes}, epochs={settings.epochs},"
        f" build=Path({str(settings.build)!r}))\n"
        "try:\n"
        f"    run_sweep(settings, {policies}, {workers})\n"
        "except CourseError as error:\n"
        "    sys.exit(f'error: {error}')"
    )


def start_sweep(settings, policies, workers, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", sweep_code(settings, policies, workers)], start_new_session=True, text=True, **options
    )


def child_workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for_the_end_of(group: int) -> None:
    deadline = time.monotonic() + 60
    while process_group_lives(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not process_group_lives(group), "the workers outlived the sweep that started them"
