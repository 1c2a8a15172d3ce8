"""The grid search: every cell of the grid once for each policy, by several worker processes, resumable."""

import gc
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock
import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from safetensors import SafetensorError

from helpers import exercises, models, speed, training
from helpers.results import describe_machine, describe_versions, load_results, save_results
from helpers.settings import CourseError, Settings, short_name


def run_sweep(
    settings: Settings,
    policies: Sequence[str] = ("full", "bitfit"),
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train every cell that is not finished yet, test each policy's best model, and return the results.

    Running it again, after an interruption too, repeats nothing that was finished. The results are also written to
    `results.json` in the settings' folder. `workers` processes (by default one a core) of one thread each share the
    cells; their number changes no result. Raises CourseError where the study was begun with other data, model or code.
    """
    for policy in policies:
        models.check_policy(policy)
    settings.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(settings.folder / "sweep.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise CourseError(f"Another sweep is running in {settings.folder}. Wait for it, or stop it first.") from None
    try:
        started = time.monotonic()
        reviews, provenance = gather(settings)
        studies = {policy: open_study(settings, policy, provenance) for policy in policies}
        waiting = sum(len(unfinished_cells(settings, study)) for study in studies.values())
        if waiting:
            workers = max(1, min(workers or os.cpu_count() or 1, waiting))
            say(f"{waiting} of {len(policies) * len(settings.cells)} cells to train, {workers} workers")
            run_workers(settings, studies, workers, say)
            seconds = time.monotonic() - started
            for study in studies.values():
                wall = study.user_attrs.get("wall_seconds", 0.0) + seconds / len(studies)
                study.set_user_attr("wall_seconds", round(wall, 1))
                study.set_user_attr("workers", workers)
        return collect(settings, provenance, reviews["test"])
    finally:
        lock.release()


def gather(settings: Settings) -> tuple[dict[str, training.TokenisedReviews], dict[str, Any]]:
    """Prepare the reviews and name everything that the results depend on."""
    reviews, facts = training.prepare(settings)
    model = {"name": short_name(settings.model), "fingerprint": models.fingerprint_model(settings.model)}
    return reviews, {
        "profile": settings.profile,
        "model": model,
        "data": facts,
        "recipe": settings.recipe(),
        "code": training.code_fingerprint(exercises, training, speed),
    }


def study_storage(settings: Settings) -> optuna.storages.RDBStorage:
    path = settings.folder / "study.db"
    try:
        return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 120}})
    except Exception as error:  # SQLAlchemy's own kinds differ from version to version.
        aside = path.with_name(f"study-unreadable-{int(time.time())}.db")
        raise CourseError(
            f"The study {path} cannot be read ({str(error).splitlines()[0]}). Move it aside, for example to"
            f" {aside.name}, and run again: the cells are then trained anew."
        ) from error


def open_study(settings: Settings, policy: str, provenance: dict[str, Any]) -> optuna.Study:
    """Open or begin a policy's study and queue every cell that is neither finished nor waiting.

    Call it only while no worker is running: cells that are marked as running then belong to workers that have died.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = study_storage(settings)
    study = optuna.create_study(
        storage=storage, study_name=policy, direction="maximize", load_if_exists=True, pruner=optuna.pruners.NopPruner()
    )
    begun = study.user_attrs.get("provenance")
    if begun is None:
        study.set_user_attr("provenance", provenance)
    elif begun != provenance:
        changed = [name for name in provenance if begun.get(name) != provenance[name]]
        raise CourseError(
            f"The study in {settings.folder} was begun with another {' and another '.join(changed)}; its cells"
            " cannot be mixed with new ones. Change that back, move the folder aside, or set COURSE_BUILD to a new one."
        )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    queued = {cell_of(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))}
    for cell in unfinished_cells(settings, study):
        if cell not in queued:
            study.enqueue_trial(
                dict(zip(("learning_rate", "per_device_train_batch_size"), cell, strict=True)),
                user_attrs={"cell": cell},
            )
    return study


def cell_of(trial: FrozenTrial | optuna.Trial) -> tuple[float, int]:
    return tuple(trial.user_attrs["cell"])


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def unfinished_cells(settings: Settings, study: optuna.Study) -> list[tuple[float, int]]:
    finished = {cell_of(trial) for trial in finished_trials(study)}
    return [cell for cell in settings.cells if cell not in finished]


def best_trial(settings: Settings, study: optuna.Study) -> FrozenTrial | None:
    """The finished cell with the highest validation accuracy; of equals, the first of the grid."""
    return best_of(settings, finished_trials(study))


def best_of(settings: Settings, trials: list[FrozenTrial]) -> FrozenTrial | None:
    return max(trials, key=lambda trial: (trial.value, -settings.cells.index(cell_of(trial))), default=None)


def checkpoint_folder(settings: Settings, policy: str, cell: tuple[float, int]) -> Path:
    return settings.folder / "checkpoints" / f"{policy}-{cell[0]:g}-{cell[1]}"


def claim(study: optuna.Study) -> optuna.Trial | None:
    """Take the next waiting cell, which the storage hands out once; None when there is none left."""
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return None
    trial = study.ask()
    if "cell" in trial.user_attrs:
        return trial
    study.tell(trial, state=TrialState.FAIL)  # Another worker was faster, and Optuna made up a trial.
    return None


def work(settings: Settings, policies: Sequence[str], parent: int) -> None:
    """A worker's life: claim cells, train them, record them. It ends with its parent process."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        reviews, _ = training.prepare(settings)
        gc.freeze()  # The Trainer collects garbage several times a cell; the imported libraries are none.
        storage = study_storage(settings)
        for policy in policies:
            study = optuna.load_study(storage=storage, study_name=policy)
            while (trial := claim(study)) is not None:
                train_trial(settings, reviews, policy, study, trial, parent)
    except CourseError as error:
        raise SystemExit(f"error: {error}") from error
    except (OSError, SafetensorError, optuna.exceptions.StorageInternalError) as error:
        raise SystemExit(f"error: could not write to {settings.folder}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def train_trial(settings, reviews, policy: str, study: optuna.Study, trial: optuna.Trial, parent: int) -> None:
    def stop_with_parent() -> None:
        if os.getppid() != parent:
            raise SystemExit("The process that started this worker has ended.")

    cell = cell_of(trial)
    rate = trial.suggest_categorical("learning_rate", settings.learning_rates)
    size = trial.suggest_categorical("per_device_train_batch_size", settings.batch_sizes)
    trainer, record = training.train_cell(settings, reviews, policy, rate, size, stop_with_parent)
    best = best_trial(settings, study)
    if best is None or record["validation_accuracy"] >= best.value:
        save_checkpoint(trainer, checkpoint_folder(settings, policy, cell))
    trial.set_user_attr("record", record)
    study.tell(trial, record["validation_accuracy"])


def save_checkpoint(trainer, folder: Path) -> None:
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    with models.quiet_library():
        trainer.model.save_pretrained(beside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def run_workers(settings: Settings, studies: dict[str, optuna.Study], count: int, say: Callable[[str], None]) -> None:
    """Run the workers to the end, saying a line for every cell that is finished."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(settings, tuple(studies), os.getpid()), daemon=True) for _ in range(count)
    ]
    started = time.monotonic()
    told = {policy: {trial.number for trial in finished_trials(study)} for policy, study in studies.items()}
    before = sum(map(len, told.values()))
    total = len(studies) * len(settings.cells)
    for process in processes:
        process.start()
    try:
        while True:
            alive = any(process.is_alive() for process in processes)
            for policy, study in studies.items():
                for trial in finished_trials(study):
                    if trial.number not in told[policy]:
                        told[policy].add(trial.number)
                        done = sum(map(len, told.values()))
                        left = (time.monotonic() - started) / (done - before) * (total - done)
                        say(describe_cell(policy, trial.user_attrs["record"], done, total, left))
                tidy_checkpoints(settings, policy, study)
            if not alive:
                break
            time.sleep(0.5)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()
    left = {policy: len(unfinished_cells(settings, study)) for policy, study in studies.items()}
    if any(left.values()):
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise CourseError(
            f"The workers stopped (exit codes {codes}) with {sum(left.values())} cells unfinished; their own messages"
            " are above. Running the same command again trains the unfinished cells only."
        )


def describe_cell(policy: str, record: dict[str, Any], done: int, total: int, seconds_left: float) -> str:
    cell = f"learning rate {record['learning_rate']:g}, batch {record['batch_size']:>3}"
    time_left = f"{record['seconds']:.0f} s; about {seconds_left / 60:.0f} min left"
    return f"[{done:>2}/{total}] {policy:<11} {cell}: accuracy {record['validation_accuracy']:.3f} ({time_left})"


def tidy_checkpoints(settings: Settings, policy: str, study: optuna.Study) -> None:
    """Remove the checkpoints of finished cells that are not the best."""
    finished = finished_trials(study)  # Read once: a cell may end between two readings.
    best = best_of(settings, finished)
    for trial in finished:
        if trial.number != best.number:
            shutil.rmtree(checkpoint_folder(settings, policy, cell_of(trial)), ignore_errors=True)


def test_best(settings: Settings, policy: str, study: optuna.Study, test: training.TokenisedReviews) -> dict[str, Any]:
    """Test a policy's best model once; the result is kept in the study."""
    best = best_trial(settings, study)
    kept = study.user_attrs.get("test")
    if kept is not None and kept["cell"] == list(cell_of(best)):
        return kept["result"]
    folder = checkpoint_folder(settings, policy, cell_of(best))
    if not folder.is_dir():
        raise CourseError(
            f"The checkpoint {folder} of the best {policy} cell is gone. Move"
            f" {settings.folder} aside and run the sweep again."
        )
    result = training.test_model(settings, folder, test)
    study.set_user_attr("test", {"cell": cell_of(best), "result": result})
    return result


def collect(settings: Settings, provenance: dict[str, Any], test: training.TokenisedReviews) -> dict[str, Any]:
    """Test the best models and write the records of every policy whose grid is complete to `results.json`."""
    storage = study_storage(settings)
    studies = {
        name: optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    }
    policies, wall, workers = {}, 0.0, None
    for policy in models.POLICIES:
        if policy not in studies or unfinished_cells(settings, studies[policy]):
            continue
        study = studies[policy]
        records = {cell_of(trial): trial.user_attrs["record"] for trial in finished_trials(study)}
        best = records[cell_of(best_trial(settings, study))]
        wall += study.user_attrs.get("wall_seconds", 0.0)
        workers = study.user_attrs.get("workers", workers)
        policies[policy] = {
            "trainable_parameters": best["trainable_parameters"],
            "cells": [
                {name: value for name, value in records[cell].items() if name != "trainable_parameters"}
                for cell in settings.cells
            ],
            "best": {name: best[name] for name in ("learning_rate", "batch_size", "validation_accuracy")},
            "test": test_best(settings, policy, study, test),
        }
    path = settings.folder / "results.json"
    if path.exists() and (kept := load_results(path))["policies"] == policies:
        return kept
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
    trainer, record = training.train_cell(settings, reviews, policy, learning_rate, batch_size)
    folder = settings.folder / "cells" / f"{policy}-{learning_rate:g}-{batch_size}-seed{settings.seed}"
    save_checkpoint(trainer, folder)
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
