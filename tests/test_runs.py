"""The engine on a 16-wide BERT and 40 rows: complete, resumable, repeatable, never mixed, whoever is killed."""

import glob
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import filelock
import pandas as pd
import psutil
import pytest
import torch
from conftest import Listener, accuracies, run_python, small_settings, wait_until
from jupyter_client.manager import start_new_kernel
from safetensors import SafetensorError
from solutions import trainer_with
from transformers import TrainingArguments

from helpers import exercises, prepare, results, runs, training, workers
from helpers.results import fingerprint_code
from helpers.runs import train_all
from helpers.settings import CourseError, Run
from helpers.sweep import list_grid


@pytest.mark.xdist_group("workers")
def test_every_run_once_then_nothing_is_repeated_whatever_the_number_of_workers(settings, monkeypatch):
    grid = list_grid(settings, "full") + list_grid(settings, "bitfit")
    listener = Listener()
    records = train_all(settings, grid, workers=2, keep_best=True, progress=listener)
    assert [(run["policy"], run["learning_rate"], run["batch_size"]) for run in records] == [
        (run.policy, run.learning_rate, run.batch_size) for run in grid
    ]
    assert all(len(run["history"]) == settings.epochs for run in records)
    assert len(listener.lines) == 1 + len(grid)
    kept = sorted(path.parent.name.split("-")[0] for path in settings.folder.glob("runs/*/model"))
    assert kept == ["bitfit", "full"] and not list(settings.folder.glob("runs/*/checkpoint-*"))

    again = Listener()
    assert train_all(settings, grid, workers=2, progress=again) == records and again.lines == []
    monkeypatch.setattr(workers, "START", "spawn")  # as on macOS and Windows
    spawned = replace(settings, build=settings.build.with_name("spawned"))
    assert accuracies(train_all(spawned, grid[:1], workers=1, progress=Listener())) == accuracies(records[:1])
    alone = replace(settings, build=settings.build.with_name("alone"))
    assert accuracies(train_all(alone, grid, workers=0, progress=Listener())) == accuracies(records)


SCRIPT = """
import os
from helpers.workers import call, open_executor
before = dict(os.environ)
with open_executor(1, None) as (executor, _):
    print(executor.submit(call, "multiprocessing", "get_start_method").result())
    print(executor.submit(os.getenv, "THP_MEM_ALLOC_ENABLE").result())
    print(executor.submit(os.getenv, "GLIBC_TUNABLES").result())
assert os.environ == before
print(__file__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
@pytest.mark.parametrize(("length", "told"), [(0, ["forkserver", "1"]), (120, ["spawn", "None"])])
def test_a_script_needs_no_guard_and_its_workers_alone_are_told_how_to_take_memory(length, told, tmp_path):
    """In a folder too long for a socket no process can fork them. What is set already counts."""
    script, set_already = tmp_path / "script.py", "glibc.malloc.arena_max=1"
    folder = tmp_path / ("x" * length) if length else Path(tempfile.gettempdir())
    folder.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    done = run_python(script, TMPDIR=str(folder), GLIBC_TUNABLES=set_already)
    assert done.stdout.splitlines() == [*told, set_already, str(script)], done.stderr


def test_other_data_another_model_or_code_are_other_runs_and_the_old_ones_stay(settings, sources, tmp_path):
    run = Run("head", epochs=1)
    (first,) = train_all(settings, [run], workers=0, progress=Listener())
    changed = tmp_path / "changed"
    changed.mkdir()
    for split in ("train", "test"):
        rows = pd.read_csv(sources / "data" / f"{split}.csv")
        rows.loc[0, "text"] = "the film was bright"
        rows.to_csv(changed / f"{split}.csv", index=False)
    train_all(replace(settings, data=str(changed)), [run], workers=0, progress=Listener())
    assert len(list(settings.folder.glob("runs/*/record.json"))) == 2
    listener = Listener()
    assert train_all(settings, [run], workers=0, progress=listener) == [first] and listener.lines == []


def test_the_code_of_the_search_is_no_part_of_a_runs_identity(tmp_path):
    source = Path(exercises.__file__).read_text(encoding="utf-8")

    def fingerprint(text: str) -> str:
        (tmp_path / "exercises.py").write_text(text)
        return fingerprint_code(tmp_path / "exercises.py")

    plain = fingerprint(source)
    assert plain == fingerprint(source.replace('"n_trials": 20', '"n_trials": 21') + "\n# a comment\n")
    assert plain == fingerprint(source + "\n\ndef unused():\n    return 1\n")
    assert plain == fingerprint(f"\ufeff{source}")
    assert plain == fingerprint(source.replace("import find_build_folder", "import find_build_folder, load_settings"))
    assert plain == fingerprint(
        source.replace(", Trainer, TrainingArguments\n", ", TrainingArguments, set_seed, Trainer\n")
    )
    assert plain == fingerprint(source.replace("import optuna\n", "import itertools, optuna\n"))
    assert plain != fingerprint(source.replace("import load_classifier", "import load_tokenizer as load_classifier"))
    assert plain != fingerprint(source.replace('.endswith(".bias")', '.endswith("bias")'))
    assert plain != fingerprint(source.replace('padding="max_length"', 'padding="longest"'))
    constant = source.replace("max_length=512", "max_length=LONGEST")
    short, long = (fingerprint(f"{constant}\nLONGEST = {length}\n") for length in (128, 512))
    assert short != long, "a constant that a function names belongs to it"

    for unrelated in ('"""A note."""', 'if __name__ == "__main__":\n    init_model()', "'old code'"):
        assert plain == fingerprint(f"{source}\n\n{unrelated}\n"), "texts and what no import runs change nothing"
    assert plain != fingerprint(f"{source}\n\nif __name__:\n    print()\n")


KERNEL = """
import builtins, importlib, json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from helpers import checks, exercises, prepare, runs
from helpers.progress import Progress
from helpers.runs import train_all
from helpers.settings import CourseError, Run, Settings

model, data, build = sys.argv[1:]
settings, run = Settings(model=model, data=data, epochs=1, build=Path(build)), Run("head", epochs=1)
file, given = Path(exercises.__file__), Path(exercises.__file__).read_text()

class Edits(Progress):
    def __init__(self, *change):
        super().__init__()
        self.change = change

    def show(self, states):
        if all(state.finished for state in states):
            file.write_text(given.replace(*self.change))

def serve(text, job=None):
    file.write_text(text)
    job = job or json.dumps(prepare.prepare(settings)[1])
    runs.prepare_once(settings, job)
    return job

def attempt(text, workers=0, progress=None):
    if text:
        file.write_text(text)
    try:
        return len(train_all(settings, [run], workers=workers, progress=progress or Progress()))
    except CourseError as error:
        return str(error)

found = [max(map(len, prepare.prepare(settings)[0]["train"]["input_ids"]))]
file.write_text(given.replace('padding="max_length"', 'padding="longest"').replace("max_length=512", "max_length=4"))
found += [max(map(len, prepare.prepare(settings)[0]["train"]["input_ids"]))]
found += [attempt(given, progress=Edits("True, max_length=512", "True, max_length=5"))]
file.write_text(given.replace("Problem 1d", "Another"))
importlib.reload(exercises)  # as the cell of a check does
file.write_text(given)
prepare.prepare(settings)
found.append(exercises.preprocess_dataset.__doc__[:10])
builtins.get_ipython = lambda: None
found.append(attempt(given + "\\n\\nget_ipython()\\n", workers=1))
found.append(attempt(given.replace("    return dataset", "    open('/no')\\n    return dataset")))
found.append(attempt(given, progress=Edits("def ", "def (:")))
first = serve(given)
serve(given.replace('{"accuracy":', '{"share":'))
serve(given, first)
found.append(list(exercises.compute_metrics(SimpleNamespace(predictions=np.eye(2), label_ids=np.arange(2)))))
parallel = given.replace("batched=True", "batched=True, num_proc=2")
broken = parallel.replace("    arguments = TrainingArguments(", "    raise SystemExit\\n    TrainingArguments(", 1)
found += [attempt(broken, workers=1), broken[: broken.index("raise SystemExit")].count("\\n") + 1]
file.write_text(given.replace("import load_classifier", "import check_policy"))
try:
    checks.problem_2a(importlib.reload(exercises).init_model)
except checks.CheckFailed as error:
    found.append(str(error))
Path("found.json").write_text(json.dumps(found))
"""


def test_a_kernel_trains_with_what_the_file_says_now_and_says_where_that_stops(sources, tmp_path):
    """A kernel lives longer than a version of exercises.py, and its workers shorter.

    A launcher's variable would have the Trainer ask for MASTER_ADDR, or wait for ever for a second process.
    """
    copy = tmp_path / "project"
    shutil.copytree(Path(exercises.__file__).parent, copy / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    command = "-B", "-c", KERNEL, sources / "model", sources / "data", tmp_path / "build"
    done = run_python(*command, cwd=copy, path=(copy,), WORLD_SIZE="2")
    assert done.returncode == 0, done.stderr
    before, after, changed, taken_back, worker, own, half, served, inside, line, checked = json.loads(
        (copy / "found.json").read_text()
    )
    assert before > 4 and after == 4 and taken_back == "Problem 1d"
    assert "exercises.py was changed during the training" in changed
    assert re.match(
        r"A worker cannot start: the import stopped in line \d+ of helpers/exercises.py with NameErr", worker
    )
    assert re.match(r"preprocess_dataset stopped in line \d+ of helpers/exercises.py with FileNotFoundError", own)
    assert re.match(r"the import stopped in line \d+ of helpers/exercises.py with SyntaxError", half), "saved half-way"
    assert served == ["accuracy"], "a Dask worker, which outlives searches, has the file as it is again"
    assert inside.startswith(f"init_trainer stopped in line {line} of helpers/exercises.py with SystemExit.")
    assert "NameError: name 'load_classifier' is not defined" in checked, "a name that the file no longer has"


@pytest.mark.parametrize("damage", ["emptied", "gone", "changed"])
def test_damaged_tokens_are_made_again(settings, damage):
    first, _ = prepare.prepare(settings)
    rows = first["train"][:]
    for path in settings.folder.glob("tokens-*/train/*.arrow"):
        data = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(
                b"" if damage == "emptied" else data.replace(rows["input_ids"][0][1].to_bytes(8, "little"), bytes(8))
            )
    assert prepare.prepare(settings)[0]["train"][:] == rows


def test_a_run_has_one_device_and_its_own_precision_whatever_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", torch.device("cpu"))
    monkeypatch.setattr(TrainingArguments, "_n_gpu", 2, raising=False)
    arguments = training.make_arguments(output_dir=str(tmp_path))
    assert arguments.mixed_precision == "no" and arguments.n_gpu == 1 and arguments.train_batch_size == 8


def test_a_stopped_run_goes_on_after_its_last_whole_epoch_to_the_same_result(settings, tmp_path):
    reviews, _ = prepare.prepare(settings)
    run, steps = Run("full", epochs=2), []

    class Stopped(Exception):
        pass

    def stop_in_the_second_epoch(epoch, history):
        steps.append(epoch)
        if len(steps) == 6:
            raise Stopped

    with pytest.raises(Stopped):
        training.train_run(settings, run, reviews, tmp_path / "run", tell=stop_in_the_second_epoch)
    model, record = training.train_run(
        settings, run, reviews, tmp_path / "run", tell=lambda epoch, history: steps.append(epoch)
    )
    assert steps == [0.25, 0.5, 0.75, 1, 1.25, 1.5] + [1.25, 1.5, 1.75, 2]
    straight, expected = training.train_run(settings, run, reviews)
    assert accuracies([record]) == accuracies([expected])
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("epochs", "kept"), [(0.5, []), (1.25, ["checkpoint-4"])])
def test_a_part_of_an_epoch_leaves_no_checkpoint_of_the_last_step(settings, tmp_path, epochs, kept):
    """Going on from there, a run would take a step too many."""
    reviews, _ = prepare.prepare(settings)
    _, record = training.train_run(settings, Run("head", epochs=epochs, at_end=True), reviews, tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == kept and record["steps"] == 4 * epochs


@pytest.mark.parametrize("damage", ["changed", "unsealed", "copied"])
def test_a_damaged_checkpoint_is_set_aside_and_its_epoch_trained_again(settings, tmp_path, damage, capsys):
    reviews, _ = prepare.prepare(settings)
    run = Run("bitfit", epochs=2)
    _, first = training.train_run(settings, run, reviews, tmp_path / "run", until=1)
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    weights = checkpoint / "model.safetensors"
    if damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif damage == "copied":  # as Google Drive and iCloud do where two machines write
        shutil.copytree(checkpoint, f"{checkpoint} (1)")
        shutil.copytree(checkpoint, f"{checkpoint} 2")
    else:
        (checkpoint / "seal.json").unlink()
    _, record = training.train_run(settings, run, reviews, tmp_path / "run")
    assert record["history"][0]["loss"] == first["history"][0]["loss"] and len(record["history"]) == 2
    kept = list(tmp_path.glob("run-checkpoint-*-unreadable-*"))
    assert len(kept) == (damage == "changed") and ("damaged" in capsys.readouterr().out) == bool(kept)


DAMAGES = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "another value": lambda text: text.replace('"epoch": 1', '"epoch": 3'),
    "another name": lambda text: text.replace('"seed"', '"sed"'),
    "another type": lambda text: "[1, 2]",
    "deeply nested": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_set_aside_and_its_run_trained_again(settings, damage, capsys):
    run = Run("head", epochs=1)
    (record,) = train_all(settings, [run], workers=0, progress=Listener())
    path = next(settings.folder.glob("runs/*/record.json"))
    path.write_text(DAMAGES[damage](path.read_text()))
    assert accuracies(train_all(settings, [run], workers=0, progress=Listener())) == accuracies([record])
    assert "damaged" in capsys.readouterr().out and list(path.parent.glob("record-unreadable-*.json"))


def test_a_run_that_is_still_measured_is_not_shown_as_finished(settings):
    run, (_, provenance) = Run("head", epochs=2), prepare.prepare(settings)
    board = runs.Board(settings, [run], provenance, None, False, Listener())
    board.folders[run].mkdir(parents=True)
    seen = {"time": time.time(), "epoch": 2.0, "history": [{"epoch": 1, "loss": 0.7, "validation_accuracy": 0.5}]}
    (board.folders[run] / "progress.json").write_text(json.dumps(seen))
    board.show()
    (state,) = board.progress.known.values()
    assert not state.finished and state.running and state.done == pytest.approx(2, abs=0.01)
    assert board.count_epochs() == 1, "its last epoch would be trained again"
    (board.folders[run] / "progress.json").write_text("[]")
    assert board.look(run).done == 0


def test_what_a_killed_worker_has_made_in_passing_is_removed(settings, monkeypatch):
    def look(settings, run, reviews, folder, *rest):
        left = list(folder.glob("tmp*"))
        with prepare.make_start(settings, run, folder) as made:
            seen.append((Path(made).parent, left))
        return training.train_run(settings, run, reviews, folder, *rest)

    seen, run = [], Run("head", epochs=1, head_scale=10)
    folder = runs.find_folder(settings, run, prepare.prepare(settings)[1])
    (folder / "tmp0").mkdir(parents=True)
    monkeypatch.setattr(runs, "train_run", look)
    train_all(settings, [run], workers=0, progress=Listener())
    assert seen == [(folder, [])] and not list(folder.glob("tmp*"))


def test_a_worker_of_two_threads_trains_one_run_at_a_time(settings):
    """As `dask worker` begins one by itself; side by side, runs would draw from the same random numbers."""
    _, provenance = prepare.prepare(settings)
    many = [Run("full", epochs=1, seed=seed, head_scale=2) for seed in range(3)]
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda run: runs.train(run, settings, provenance, None, False), many)]
    records = [record for record, _ in found]
    assert accuracies(records) == accuracies(train_all(settings, many, workers=0, progress=Listener()))


@pytest.mark.xdist_group("workers")
def test_a_killed_worker_is_not_blamed_on_the_student():
    killed = pytest.raises(CourseError, match="worker was killed. Is there enough memory")
    with killed, runs.explained(), workers.open_executor(1, None) as (executor, _):
        executor.submit(os._exit, 1).result()


STUB = Mock(side_effect=NotImplementedError("Problem 0: write it"))


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("preprocess_dataset", STUB, "^Problem 0: write it$"),
        ("init_trainer", STUB, "^Problem 0: write it$"),
        ("init_trainer", Mock(side_effect=TimeoutError), "TimeoutError"),  # It comes without words.
        (
            "preprocess_dataset",
            lambda *given: None,
            "expected datasets.Dataset, found NoneType.*the checks of problems 1d",
        ),
        (
            "preprocess_dataset",
            lambda rows, tokenizer: rows.select(range(min(8, len(rows)))).map(
                lambda row: tokenizer(row["text"], padding="max_length", max_length=512)
            ),
            "train reviews that preprocess_dataset returns: expected 32, found 8",
        ),
        (
            "init_trainer",
            lambda *given, **named: None,
            "expected transformers.Trainer, found None.*the checks of problems 1d",
        ),
        ("init_trainer", trainer_with(metrics=lambda found: 0.5), "stopped with TypeError.*the checks of problems 1d"),
    ],
)
def test_what_no_check_has_passed_ends_in_a_sentence_without_a_traceback(settings, monkeypatch, name, wrong, said):
    monkeypatch.setattr(exercises, name, wrong)
    with pytest.raises(CourseError, match=said) as raised:
        train_all(settings, [Run("full", epochs=1)], workers=0, progress=Listener())
    assert raised.value._render_traceback_() == [f"error: {raised.value}"]


def test_training_gives_init_trainer_what_the_check_gives_it(settings, monkeypatch):
    def init_trainer(model_name, train_data, val_data, use_bitfit=False):
        assert {len(row) for row in train_data["attention_mask"]} == {512} and train_data["label"][:2] == [0, 1]
        return exercises_init_trainer(model_name, train_data.remove_columns(["text"]), val_data, use_bitfit)

    exercises_init_trainer = exercises.init_trainer
    monkeypatch.setattr(exercises, "init_trainer", init_trainer)
    (record,) = train_all(settings, [Run("full", epochs=1)], workers=0, progress=Listener())
    assert len(record["history"]) == 1


def test_a_checkpoint_that_cannot_be_written_is_not_blamed_on_the_student(settings, monkeypatch):
    said = "[enforce fail at inline_container.cc:672] . unexpected pos 97472 vs 97364"
    monkeypatch.setattr(torch, "save", Mock(side_effect=RuntimeError(said)))
    with pytest.raises(CourseError, match="^Could not read or write .*unexpected pos.*room on the disk"):
        train_all(settings, [Run("full", epochs=2)], workers=0, progress=Listener())


def test_a_reader_that_leaves_is_not_taken_for_a_folder_that_cannot_be_written(settings, monkeypatch):
    monkeypatch.setattr(Listener, "say", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        train_all(settings, [Run("head", epochs=1)], workers=0, progress=Listener())


LIMITS = [
    ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, 8),
    ({"cpu.max": "250000 100000\n", "memory.max": "max\n"}, 3),
    ({"cpu.max": "250000 100000\n", "memory.max": f"{4 * 2**30}\n"}, 2),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ({"memory/memory.limit_in_bytes": f"{2**30}\n"}, 1),
    ({"memory.max": "max\n", "hub/cpu.max": "400000 100000\n", "hub/ann/memory.max": f"{5 * 2**30}\n"}, 3),
    ({"memory/slurm/memory.limit_in_bytes": f"{2**30}\n", "memory/memory.limit_in_bytes": f"{2**62}\n"}, 1),
    ({"hub/bob/memory.max": f"{2**30}\n"}, 8),
    ({"memory.max": "", "groups": "a kernel that says something else\n"}, 8),
    ({"free": "5"}, 3),
    ({"free": "1"}, 1),
]


@pytest.mark.parametrize(("files", "wanted"), LIMITS)
def test_there_are_no_more_workers_than_machine_and_container_have_room_for(tmp_path, monkeypatch, files, wanted):
    free = int(files.get("free", 64)) * 2**30
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    (tmp_path / "groups").write_text("4:memory:/slurm/job_7/step\n2:cpu,cpuacct:/\n0::/hub/ann/kernel\n")
    monkeypatch.setattr(results, "CONTAINER", tmp_path)
    monkeypatch.setattr(results, "GROUPS", tmp_path / "groups")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert workers.count_workers() == wanted


def test_a_gpu_that_only_emulates_bf16_trains_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_it, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has_it: has or including_emulation
        )
        assert prepare.choose_precision("auto") == wanted


def test_two_workers_of_one_machine_may_prepare_the_reviews_at_once(settings, monkeypatch):
    def overtake(rows):
        monkeypatch.setattr(prepare, "strip_padding", strip)
        prepare.prepare(settings)  # Another worker begins later, and is done first.
        return strip(rows)

    strip = prepare.strip_padding
    monkeypatch.setattr(prepare, "strip_padding", overtake)
    reviews, _ = prepare.prepare(settings)
    assert len(reviews["train"]) == 32 and not list(settings.folder.glob("*.part"))


def test_a_loss_that_is_no_number_ends_the_run_without_a_record(settings):
    with pytest.raises(CourseError, match="loss of full, 1e\\+20.* is not a number"):
        train_all(settings, [Run("full", learning_rate=1e20)], workers=0, progress=Listener())
    assert not list(settings.folder.glob("runs/*/record.json"))


def test_two_trainings_in_one_folder_are_refused_and_a_drive_without_locks_is_said(settings, monkeypatch):
    settings.folder.mkdir(parents=True)
    with (
        filelock.FileLock(settings.folder / "training.lock"),
        pytest.raises(CourseError, match="Another training is running"),
    ):
        train_all(settings, [Run("head")], progress=Listener())
    monkeypatch.setattr(filelock.FileLock, "acquire", Mock(side_effect=OSError(37, "No locks available")))
    listener = Listener()
    train_all(settings, [Run("head", epochs=1)], workers=0, progress=listener)
    assert "without file locks" in listener.lines[0]


def test_a_build_folder_that_cannot_be_made_or_is_another_users_is_one_sentence(settings, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="cannot be created.*COURSE_BUILD"):
        train_all(replace(settings, build=tmp_path / "file" / "build"), [Run("head")], progress=Listener())
    monkeypatch.setattr(Path, "touch", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(CourseError, match="cannot be.* written to: Permission denied.*COURSE_BUILD"):
        train_all(settings, [Run("head")], progress=Listener())


def code_of(settings, policies, workers, **options) -> str:
    return (
        "import sys; from pathlib import Path; from helpers.settings import CourseError, Settings\n"
        "from helpers.sweep import run_sweep\n"
        f"settings = Settings(model={settings.model!r}, data={settings.data!r},"
        f" learning_rates={settings.learning_rates}, batch_sizes={settings.batch_sizes}, epochs={settings.epochs},"
        f" build=Path({str(settings.build)!r}))\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        run_sweep(settings, {policies}, {workers}, **{options})\n"
        "    except CourseError as error:\n"
        "        sys.exit(f'error: {error}')"
    )


def start_sweep(settings, policies, workers, **options) -> subprocess.Popen:
    code = code_of(settings, policies, workers, **options)
    code = code.replace("except CourseError", "except (CourseError, KeyboardInterrupt)")
    # Where the tests run in the background, Ctrl-C is ignored, also by what they start.
    here = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **here)


def seen(settings) -> set[str]:
    """The epochs' checkpoints of unfinished runs, and the records of finished ones."""
    patterns = ("runs/*/checkpoint-*/seal.json", "runs/*/record.json")
    return {path for pattern in patterns for path in glob.glob(str(settings.folder / pattern))}


@pytest.fixture(scope="module")
def uninterrupted(sources, tmp_path_factory) -> list[list[float]]:
    """The accuracies of BitFit's small grid, each of its runs trained for 12 epochs in one go."""
    alone = replace(small_settings(sources, tmp_path_factory.mktemp("alone")), epochs=12)
    return accuracies(train_all(alone, list_grid(alone, "bitfit"), workers=0, progress=Listener()))


def assert_complete(settings, uninterrupted) -> None:
    records = train_all(settings, list_grid(settings, "bitfit"), progress=(listener := Listener()))
    assert accuracies(records) == uninterrupted and listener.lines == []


def test_killed_and_stopped_at_random_the_grid_is_completed_all_the_same(settings, uninterrupted):
    """A worker, the sweep alone, or all are killed, or Ctrl-C is pressed, at random moments after an epoch."""
    settings = replace(settings, epochs=12)
    moments = random.Random(0)
    for victims in (["worker", "sweep"], ["all"], ["Ctrl-C"]):
        sweep = start_sweep(settings, ["bitfit"], workers=2)
        family = psutil.Process(sweep.pid)
        for victim in victims:
            before = seen(settings)
            assert wait_until(lambda before=before: seen(settings) != before)
            time.sleep(moments.uniform(0, 0.1))
            assert sweep.poll() is None, "it was done before anything could be killed"
            workers = family.children(recursive=True)
            newest = max(workers, key=psutil.Process.create_time)  # One that trains.
            for process in {"worker": [newest], "sweep": [family], "all": [family, *workers]}.get(victim, []):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        if victim == "Ctrl-C":
            os.killpg(sweep.pid, signal.SIGINT)
        _, said = sweep.communicate(timeout=60)
        assert (said, sweep.returncode) == (f"error: {runs.STOPPED}\n", 1) if victim == "Ctrl-C" else sweep.returncode
        assert not psutil.wait_procs(workers, timeout=30)[1], "the workers outlived the sweep that started them"
    train_all(settings, list_grid(settings, "bitfit"), workers=0, progress=Listener())
    assert_complete(settings, uninterrupted)


@pytest.fixture
def scheduler(tmp_path):
    """A Dask scheduler and two workers on loopback; its address, and the workers' processes."""
    pytest.importorskip("distributed")
    dask = [sys.executable, "-m", "dask"]
    here = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address_file = tmp_path / "scheduler.json"
    command = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    started = [subprocess.Popen([*command, "--scheduler-file", str(address_file)], **here)]
    assert wait_until(lambda: address_file.exists() and address_file.read_text().strip())
    address = re.search(r'"(tcp://[^"]+)"', address_file.read_text())[1]
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
    started += [subprocess.Popen([*dask, "worker", address, *options], **here) for _ in range(2)]
    yield address, started[1:]
    for process in started:
        process.kill()
        process.wait()


def test_a_dask_worker_killed_while_it_trains_leaves_its_runs_to_the_other(settings, scheduler, uninterrupted, capsys):
    address, both = scheduler

    def count_jobs():
        with workers.open_executor(1, address) as (_, jobs):
            return jobs

    assert wait_until(lambda: count_jobs() == 2)
    assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR), "a lost scheduler is one sentence"
    (single,) = train_all(settings, [Run("head", epochs=1)], scheduler=address, progress=Listener())
    assert single["workers"] == 1, "the other had nothing to do"
    settings = replace(settings, epochs=12)
    sweep = start_sweep(settings, ["bitfit"], None, scheduler=address)
    assert wait_until(lambda: seen(settings))
    both[0].kill()
    assert sweep.wait(timeout=300) == 0
    assert_complete(settings, uninterrupted)
    assert list(settings.folder.glob("runs/bitfit-*/model/model.safetensors"))
    both[1].kill()
    assert wait_until(lambda: count_jobs() and "no workers yet" in capsys.readouterr().out)


def test_a_scheduler_that_is_not_there_is_named_with_the_way_out(settings):
    pytest.importorskip("distributed")
    with pytest.raises(CourseError, match=r"no Dask scheduler at nonsense://.*`dask scheduler`"):
        train_all(settings, [Run("head")], scheduler="nonsense://nowhere", progress=Listener())


@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"]).returncode != 0,
    reason="a small disk of its own needs Linux with user namespaces",
)
def test_a_full_disk_stops_the_sweep_with_one_message_and_loses_nothing(settings, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    code = code_of(replace(settings, build=disk), ["bitfit"], workers=0)
    # The disk is full up to a few KiB, later it is not; what was on it is copied out, for it goes with the namespace.
    twice = (
        f"code = {code!r}\ntry:\n    exec(code)\nexcept SystemExit as stopped:\n    print(stopped)\n"
        f"import os\nos.remove('{disk}/filler')\nexec(code)"
    )
    script = (
        f"mount -t tmpfs -o size=1500k tmpfs {disk} && dd if=/dev/zero of={disk}/filler bs=1k count=1300 2>/dev/null;"
        f'"$0" -c "$1" && cp -r {disk}/quick/results.json {kept}'
    )
    run = subprocess.run(["unshare", "-rm", "sh", "-c", script, sys.executable, twice], capture_output=True, text=True)
    assert "could not read or write" in run.stdout.lower() and "Traceback" not in run.stderr, run.stdout + run.stderr
    assert (kept / "results.json").exists()


@pytest.mark.parametrize("kind", [Exception, SafetensorError, lambda said: OSError(122, said)])
def test_a_full_disk_is_not_blamed_on_the_student_whichever_library_meets_it(kind):
    said = runs.explain(kind("Disk quota exceeded (os error 122)"))
    assert "Could not read or write" in said and "quota exceeded" in said and "Is there room" in said


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


def test_a_sweep_stopped_in_a_notebook_says_so_calmly(settings, notebook_kernel):
    """Whether a worker trains or the kernel itself."""
    manager, client = notebook_kernel
    client.execute(code_of(replace(settings, epochs=100), ["head"], 1).split("if __name__")[0])
    for count, policy in ((1, "head"), (0, "bitfit")):
        client.execute(f"run_sweep(settings, [{policy!r}], {count})", stop_on_error=False)
        errors, deadline = [], time.monotonic() + 120
        while not errors and time.monotonic() < deadline:
            message = client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "display_data":
                wait_until(lambda policy=policy: list(settings.folder.glob(f"runs/{policy}-*/progress.json")))
                manager.interrupt_kernel()
            elif message["msg_type"] == "error":
                errors.append(message["content"])
        assert [error["traceback"] for error in errors] == [[runs.STOPPED]]
        assert len(list(settings.folder.glob(f"runs/{policy}-*"))) == 1, "it went on with the others"
