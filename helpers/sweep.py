"""The grid search: every cell of the grid once for each policy, by several worker processes, resumable."""

import gc
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock
import optuna
import torch
from safetensors import SafetensorError

from helpers import models, training
from helpers.progress import Progress, Scoreboard, choose_progress, describe_time
from helpers.results import (
    describe_machine,
    describe_versions,
    fingerprint_code,
    list_recipe,
    load_results,
    peak_memory_gb,
    save_results,
)
from helpers.settings import CourseError, Settings, set_aside, short_name
from helpers.study import Cell, CellQueue, Task, open_storage, reached

GPU_WORKERS = 4
LEARNT = 0.55  # The validation accuracy from which a cell has learnt something: guessing between two labels gives 0.5.
STOPPED = "Stopped. What is finished is kept; running the sweep again goes on from there."
WRITE_ERRORS = (OSError, SafetensorError, optuna.exceptions.StorageInternalError)


class SweepStopped(KeyboardInterrupt):
    """The user has stopped a sweep; all that was finished is kept."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


def run_sweep(
    settings: Settings,
    policies: Sequence[str] = ("full", "bitfit"),
    workers: int | None = None,
    prune: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train every cell that is not finished yet, test each policy's best model, and return the results.

    Running it again, after an interruption too, repeats nothing that was finished; a cell that was being trained goes
    on after its last whole epoch. The results are also written to `results.json` in the settings' folder. `workers`
    processes (by default one a core) of one thread each share the cells; their number changes no result, and with 0
    this process trains them all. `prune` stops the less promising cells early (successive halving, see `rungs`). Raises
    CourseError where the study was begun with other data, model or code, and SweepStopped, a KeyboardInterrupt, where
    the user stops it.
    """
    for policy in policies:
        models.check_policy(policy)
    settings.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(settings.folder / "sweep.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise CourseError(f"Another sweep is running in {settings.folder}. Wait for it, or stop it first.") from None
    progress = progress or choose_progress()
    try:
        started = time.monotonic()
        reviews, provenance = gather(settings)
        storage = open_storage(settings, progress.say)
        queues = {policy: CellQueue(settings, policy, storage) for policy in policies}
        for queue in queues.values():
            queue.begin(provenance, progress.say)
        if any(left_to_do(settings, queue, prune) for queue in queues.values()):
            if workers is None:
                workers = GPU_WORKERS if torch.cuda.is_available() else count_cores()
            costs = estimate(settings, reviews, queues, workers, prune, progress)
            rounds = rungs(settings, prune)
            for (until, share), (_, next_share) in zip(rounds, [*rounds[1:], (None, 0.0)], strict=True):
                tasks = {policy: choose_tasks(settings, queue, until, share) for policy, queue in queues.items()}
                board = Scoreboard(queues, tasks, costs, len(reviews["train"]), progress)
                finish_tasks(
                    settings, queues, tasks, workers, board, until, math.ceil(next_share * len(settings.cells))
                )
            for queue in queues.values():
                note_run(queue, workers, (time.monotonic() - started) / len(queues), prune)
        else:
            show_finished(settings, queues, progress)
        for queue in queues.values():
            if "search" not in queue.study.user_attrs:  # The study was rebuilt from the records.
                note_run(queue, 1, sum(record["seconds"] for record in queue.records().values()), prune)
        return collect(settings, provenance, reviews, storage, progress)
    except KeyboardInterrupt:
        raise SweepStopped(STOPPED) from None
    except NotImplementedError as error:  # A function that the student has not written yet.
        raise CourseError(str(error)) from error
    except WRITE_ERRORS as error:
        raise CourseError(f"{describe_write_error(settings, error)}. What is there is kept; run it again.") from error
    finally:
        progress.close()
        lock.release()


def show_finished(settings: Settings, queues: dict[str, CellQueue], progress: Progress) -> None:
    """Show the grids of a search that has ended; a cell that was stopped early has reached what it should."""
    tasks = {}
    for policy, queue in queues.items():
        records = queue.records()
        tasks[policy] = [Task(cell, reached(records, cell)) for cell in settings.cells]
    Scoreboard(queues, tasks, {}, 0, progress).update()


def describe_write_error(settings: Settings, error: Exception) -> str:
    reason = str(error.__cause__ or error).strip().splitlines()[0]
    return f"Could not write to {settings.folder} or to the study's database: {reason}"


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gather(settings: Settings) -> tuple[dict[str, training.TokenisedReviews], dict[str, Any]]:
    """Prepare the reviews and name everything that the results depend on."""
    reviews, facts = training.prepare(settings)
    model = {"name": short_name(settings.model), "fingerprint": models.fingerprint_model(settings.model)}
    return reviews, {
        "profile": settings.profile,
        "model": model,
        "data": facts,
        "recipe": settings.recipe() | {"precision": training.choose_precision(settings.precision)},
        "code": fingerprint_code(*list_recipe()),
    }


def rungs(settings: Settings, prune: bool) -> list[tuple[int, float]]:
    """The rounds of the search: (epoch to reach, share of the cells that go on to it).

    With `prune`, successive halving: after a quarter of the epochs the better two fifths of the cells go on, after half
    of them one fifth (see `order_cells`). For the assignment's 20 cells of 4 epochs these are 36 of 80 epochs.
    """
    if not prune:
        return [(settings.epochs, 1.0)]
    quarter, half = max(1, settings.epochs // 4), max(1, settings.epochs // 2)
    return list({quarter: 1.0, half: 0.4, settings.epochs: 0.2}.items())


def choose_tasks(settings: Settings, queue: CellQueue, until: int, share: float) -> list[Task]:
    """The cells to train to the end of the epoch `until`: all, or those that led when the round before had ended."""
    if share == 1:
        return [Task(cell, until) for cell in settings.cells]
    records = queue.records()
    last = [epoch for epoch, _ in rungs(settings, prune=True) if epoch < until][-1]
    there = [cell for cell in settings.cells if reached(records, cell) >= last]
    return [Task(cell, until) for cell in order_cells(records, there, last)[: math.ceil(share * len(settings.cells))]]


def order_cells(records: dict[Cell, dict[str, Any]], cells: list[Cell], epoch: int) -> list[Cell]:
    """The cells with the highest validation accuracy after an epoch first.

    While no cell has left guessing, accuracies differ by chance; then those with the lowest training loss come first.
    """
    reports = {cell: records[cell]["epochs"][epoch - 1] for cell in cells}
    if max((report["validation_accuracy"] for report in reports.values()), default=0) < LEARNT:
        return sorted(cells, key=lambda cell: reports[cell]["loss"])
    return sorted(cells, key=lambda cell: -reports[cell]["validation_accuracy"])


def left_to_do(settings: Settings, queue: CellQueue, prune: bool) -> bool:
    return any(queue.unfinished(choose_tasks(settings, queue, until, share)) for until, share in rungs(settings, prune))


def estimate(settings, reviews, queues, workers: int, prune: bool, progress: Progress) -> dict[Cell, float]:
    """Measure some steps of every batch size and say how long the sweep will take; returns a cell's seconds an epoch.

    The first policy's speed stands for all, and validation is counted at three times the speed of training.
    """
    tokens = int(reviews["train"].flat["lengths"].sum()) + int(reviews["validation"].flat["lengths"].sum()) / 3
    threads, policy = torch.get_num_threads(), next(iter(queues))
    torch.set_num_threads(1)  # As the workers have.
    speeds = {size: training.measure_speed(settings, reviews, policy, size) for size in settings.batch_sizes}
    torch.set_num_threads(threads)
    costs = {cell: tokens / speeds[cell[1]] for cell in settings.cells}
    cells, seconds = 0, 0.0
    for queue in queues.values():
        records = queue.records()
        epochs = {cell: reached(records, cell) for cell in settings.cells}
        cells += sum(count < settings.epochs for count in epochs.values())
        for until, share in rungs(settings, prune):
            for cell in settings.cells:
                seconds += share * max(0, until - epochs[cell]) * costs[cell]
                epochs[cell] = max(until, epochs[cell])
    progress.say(
        f"{cells} of {len(queues) * len(settings.cells)} cells to train, {workers or 'no'} workers:"
        f" about {describe_time(seconds / (workers or 1))}, {peak_memory_gb():.1f} GB of memory a worker"
        f" (measured at {min(speeds.values()):,.0f} to {max(speeds.values()):,.0f} tokens/s)"
    )
    return costs


def finish_tasks(settings, queues: dict[str, CellQueue], tasks, workers: int, board, until: int, keep: int) -> None:
    """Have the tasks done, by this machine's workers and by any others that share the storage.

    The checkpoints of the `keep` leading cells are kept for the next round.
    """
    unlucky = 0
    while True:
        for policy, queue in queues.items():
            queue.reclaim()
            queue.hand_out(tasks[policy])
        left = sum(len(queue.unfinished(tasks[policy])) for policy, queue in queues.items())
        if not left:
            return
        waiting = sum(queue.waiting() for queue in queues.values())
        if not waiting:
            time.sleep(2)  # Other machines are training the rest.
            board.update()
            continue
        codes = run_workers(settings, queues, min(workers, waiting), board, until, keep)
        still = sum(len(queue.unfinished(tasks[policy])) for policy, queue in queues.items())
        unlucky = unlucky + 1 if still == left else 0
        if unlucky == 3 or any(code > 0 for code in codes):
            raise CourseError(
                f"The workers stopped (exit codes {', '.join(map(str, codes))}) with {still} cells unfinished; their"
                " own messages are above. Running the same command again trains the unfinished cells only."
            )
        if any(codes):
            board.progress.say("A worker was killed (out of memory?); its cell is handed out again.")


def run_workers(settings, queues: dict[str, CellQueue], count: int, board, until: int, keep: int) -> list[int]:
    """Run workers until no task waits, and show what they do; returns their exit codes."""
    if not count:
        work(settings, tuple(queues), os.getppid())
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(settings, tuple(queues), os.getpid()), daemon=True) for _ in range(count)
    ]
    with ignored_interrupts():
        for process in processes:
            process.start()
    try:
        while any(process.is_alive() for process in processes):
            time.sleep(1)
            tidy(settings, board.update(), until, keep)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()
    tidy(settings, board.update(), until, keep)
    return [process.exitcode for process in processes]


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Processes started meanwhile never notice Ctrl-C, which goes to all at once: their parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def work(settings: Settings, policies: Sequence[str], parent: int) -> None:
    """A worker's life: claim cells, train them, record them. It ends with its parent process."""
    torch.set_num_threads(1)
    try:
        reviews, _ = training.prepare(settings)
        gc.freeze()  # The Trainer collects garbage several times a cell; the imported libraries are none.
        storage = open_storage(settings)
        for policy in policies:
            queue = CellQueue(settings, policy, storage)
            while True:
                with queue.claim() as claimed:
                    if claimed is None:
                        break
                    train_task(settings, reviews, queue, *claimed, parent)
    except (CourseError, NotImplementedError) as error:
        raise SystemExit(f"error: {error}") from error
    except WRITE_ERRORS as error:
        raise SystemExit(f"error: {describe_write_error(settings, error)}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def train_task(settings: Settings, reviews, queue: CellQueue, trial: optuna.Trial, task: Task, parent: int) -> None:
    def stop_with_parent() -> None:
        if os.getppid() != parent:
            raise SystemExit("The process that started this worker has ended.")

    def report(epoch: dict[str, Any]) -> None:
        trial.report(epoch["validation_accuracy"], epoch["epoch"])

    folder = epochs_folder(settings, queue.policy, task.cell)
    try:
        trainer, record = training.train_cell(
            settings, reviews, queue.policy, *task.cell, folder, task.until, stop_with_parent, report
        )
        best = best_record(settings, queue.records())
        if task.until == settings.epochs and (
            best is None or record["validation_accuracy"] >= best["validation_accuracy"]
        ):
            save_checkpoint(trainer, checkpoint_folder(settings, queue.policy, task.cell))
        queue.finish(trial, task, record)
    except optuna.exceptions.UpdateFinishedTrialError:
        print(f"{queue.policy} {task.cell} has been given to another worker, since this one gave no sign of life.")
    if task.until == settings.epochs:
        shutil.rmtree(folder, ignore_errors=True)


def epochs_folder(settings: Settings, policy: str, cell: Cell) -> Path:
    return settings.folder / "epochs" / f"{policy}-{cell[0]:g}-{cell[1]}"


def checkpoint_folder(settings: Settings, policy: str, cell: Cell) -> Path:
    return settings.folder / "checkpoints" / f"{policy}-{cell[0]:g}-{cell[1]}"


def save_checkpoint(trainer, folder: Path) -> None:
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    with models.quiet_library():
        trainer.model.save_pretrained(beside)
    training.seal(beside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def best_record(settings: Settings, records: dict[Cell, dict[str, Any]]) -> dict[str, Any] | None:
    """The record of the fully trained cell with the highest validation accuracy; of equals, the first of the grid."""
    trained = [records[cell] for cell in settings.cells if reached(records, cell) == settings.epochs]
    return max(trained, key=lambda record: record["validation_accuracy"], default=None)


def tidy(settings: Settings, records: dict[str, dict[Cell, dict[str, Any]]], until: int, keep: int) -> None:
    """Remove the models of fully trained cells that are not the best, and of stopped ones that will not go on."""
    for policy, known in records.items():
        stopped = [cell for cell in known if reached(known, cell) == until < settings.epochs]
        for cell in order_cells(known, stopped, until)[keep:]:
            shutil.rmtree(epochs_folder(settings, policy, cell), ignore_errors=True)
        best = best_record(settings, known)
        for cell, record in known.items():
            if reached(known, cell) == settings.epochs and record is not best:
                shutil.rmtree(checkpoint_folder(settings, policy, cell), ignore_errors=True)


def note_run(queue: CellQueue, workers: int, seconds: float, prune: bool) -> None:
    known = queue.study.user_attrs
    queue.study.set_user_attr("wall_seconds", round(known.get("wall_seconds", 0.0) + seconds, 1))
    queue.study.set_user_attr("workers", workers)
    queue.study.set_user_attr("search", "pruned" if prune else "exhaustive")


def test_best(settings: Settings, queue: CellQueue, reviews, progress: Progress) -> dict[str, Any]:
    """Test a policy's best model once; the result is kept in the study.

    A model that is missing or damaged, or that another machine keeps, is trained again.
    """
    best = best_record(settings, queue.records())
    cell = best["learning_rate"], best["batch_size"]
    kept = queue.study.user_attrs.get("test")
    if kept is not None and tuple(kept["cell"]) == cell:
        return kept["result"]
    folder = checkpoint_folder(settings, queue.policy, cell)
    if not training.is_sealed(folder):
        if folder.exists():
            progress.say(f"The model {folder} is damaged; it is now {set_aside(folder).name}.")
        progress.say(f"Training the best {queue.policy} cell again, whose model is not here.")
        trainer, record = training.train_cell(
            settings, reviews, queue.policy, *cell, epochs_folder(settings, queue.policy, cell)
        )
        if record["validation_accuracy"] != best["validation_accuracy"]:
            progress.say(
                f"It reaches {record['validation_accuracy']:.4f} here, and reached {best['validation_accuracy']:.4f} on"
                " the machine that trained it first."
            )
        save_checkpoint(trainer, folder)
        shutil.rmtree(epochs_folder(settings, queue.policy, cell), ignore_errors=True)
    result = training.test_model(settings, folder, reviews["test"])
    queue.study.set_user_attr("test", {"cell": cell, "result": result})
    return result


def collect(settings: Settings, provenance: dict[str, Any], reviews, storage, progress: Progress) -> dict[str, Any]:
    """Test the best models and write the records of every policy whose search has ended to `results.json`."""
    policies, wall, workers = {}, 0.0, None
    names = optuna.get_all_study_names(storage)
    for policy in models.POLICIES:
        if f"{settings.profile}-{policy}" not in names:
            continue
        queue = CellQueue(settings, policy, storage)
        attributes, records = queue.study.user_attrs, queue.records()
        if "search" not in attributes:
            continue
        best = best_record(settings, records)
        wall += attributes["wall_seconds"]
        workers = attributes["workers"]
        policies[policy] = {
            "trainable_parameters": best["trainable_parameters"],
            "search": attributes["search"],
            "cells": [
                {name: value for name, value in records[cell].items() if name != "trainable_parameters"}
                for cell in settings.cells
            ],
            "best": {name: best[name] for name in ("learning_rate", "batch_size", "validation_accuracy")},
            "test": test_best(settings, queue, reviews, progress),
        }
    path = settings.folder / "results.json"
    if path.exists():
        try:
            if (kept := load_results(path))["policies"] == policies:
                return kept
        except CourseError:
            progress.say(f"{path} is damaged; it is now {set_aside(path).name}, and is written anew.")
    save_results({"provenance": provenance | describe_run(wall, workers), "policies": policies}, path)
    return load_results(path)


def describe_run(wall_seconds: float, workers: int | None) -> dict[str, Any]:
    return {
        "versions": describe_versions(),
        "hardware": describe_machine(),
        "threads": torch.get_num_threads() if workers is None else 1,
        "workers": workers,
        "wall_seconds": round(wall_seconds, 1),
        "finished": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def run_cell(settings: Settings, policy: str, learning_rate: float, batch_size: int) -> Path:
    """Train and test a single cell, also one beside the grid, in this process; returns its results file.

    The file has the shape of a sweep's results with one cell, and stands beside the cell's model under `cells/`.
    """
    models.check_policy(policy)
    started = time.monotonic()
    reviews, provenance = gather(settings)
    name = f"{policy}-{learning_rate:g}-{batch_size}-seed{settings.seed}"
    key = hashlib.sha256(json.dumps(provenance).encode()).hexdigest()[:8]
    epochs = settings.folder / "epochs" / f"{name}-{key}"
    trainer, record = training.train_cell(settings, reviews, policy, learning_rate, batch_size, epochs)
    folder = settings.folder / "cells" / name
    save_checkpoint(trainer, folder)
    shutil.rmtree(epochs, ignore_errors=True)
    found = {
        "trainable_parameters": record.pop("trainable_parameters"),
        "cells": [record],
        "best": {name: record[name] for name in ("learning_rate", "batch_size", "validation_accuracy")},
        "test": training.test_model(settings, folder, reviews["test"]),
    }
    path = folder / "results.json"
    run = describe_run(time.monotonic() - started, None)
    save_results({"provenance": provenance | run, "policies": {policy: found}}, path)
    return path
