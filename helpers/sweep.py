"""The assignment's grid: 20 runs per policy, and each policy's best run tested on the test reviews."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import models, training
from helpers.checkpoints import drop_checkpoints, is_sealed, list_checkpoints, read_sealed, write_sealed
from helpers.prepare import Reviews, identify, prepare
from helpers.progress import choose_progress
from helpers.results import best_run, choose_best, describe_origin, fingerprint_code, load_results, save_results
from helpers.runs import RECORD, Record, explained, find_folder, train_all
from helpers.settings import CourseError, Run, Settings, set_aside

LEARNT = 0.55  # The validation accuracy at which a run has learnt something: guessing between two labels gives 0.5.


def list_grid(settings: Settings, policy: str) -> list[Run]:
    """A policy's runs, in the order in which they are tried."""
    models.check_policy(policy)
    return [Run(policy, rate, size, settings.seed, settings.epochs) for rate, size in settings.cells]


@explained()
def run_sweep(
    settings: Settings,
    policies: str | Sequence[str] = ("full", "bitfit"),
    workers: int | None = None,
    prune: bool = False,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Train every run of the grid that is not finished yet, test each policy's best model, and return the results.

    The results (see `results`) are also written to `results.json` in the settings' folder. `prune` stops the less
    promising runs early (successive halving, see `rungs`). For the other arguments, see `runs.train_all`.
    """
    progress = choose_progress()
    names = dict.fromkeys([policies] if isinstance(policies, str) else policies)
    runs, records, before = [run for policy in names for run in list_grid(settings, policy)], {}, 0
    for until, share in rungs(settings, prune):
        if share < 1:
            runs = choose_runs(records, before, math.ceil(share * len(settings.cells)))
            _, provenance = prepare(settings)
            for run in records.keys() - set(runs):
                folder = find_folder(settings, run, provenance)
                steps = before * math.ceil(provenance["data"]["train"] / run.batch_size)
                # Keep those that went further, in a search without `prune`.
                if all(reached <= steps for reached in list_checkpoints(folder)):
                    drop_checkpoints(folder)
        found = train_all(settings, runs, workers, scheduler, until, keep_best=True, progress=progress)
        records, before = dict(zip(runs, found, strict=True)), until
    return collect(settings)


def rungs(settings: Settings, prune: bool) -> list[tuple[int, float]]:
    """The rounds of the search: (epoch to reach, share of the runs that continue to it).

    With `prune`, successive halving: the best two fifths of the runs continue after a quarter of the epochs, and one
    fifth after half of them (see `choose_runs`). For the assignment's 20 runs of 4 epochs, that makes 36 instead of 80
    epochs. Runs of fewer epochs have fewer rounds.
    """
    parts = (4, 2, 1) if prune else (1,)
    ends = sorted({math.ceil(settings.epochs / part) for part in parts})
    return list(zip(ends, (1.0, 0.4, 0.2), strict=False))


def choose_runs(records: dict[Run, Record], epoch: int, count: int) -> list[Run]:
    """Each policy's `count` most promising runs after an epoch: those with the highest validation accuracy.

    While no run is better than guessing, accuracies differ only by chance; then the lowest training losses count.
    """
    chosen: list[Run] = []
    for policy in dict.fromkeys(run.policy for run in records):
        reports = {run: record["history"][int(epoch) - 1] for run, record in records.items() if run.policy == policy}
        if max(report["validation_accuracy"] for report in reports.values()) < LEARNT:
            chosen += sorted(reports, key=lambda run: reports[run]["loss"])[:count]
        else:
            chosen += sorted(reports, key=lambda run: -reports[run]["validation_accuracy"])[:count]
    return [run for run in records if run in chosen]


def collect(settings: Settings) -> dict[str, Any]:
    """Test the best models, and write the records of every policy with a complete grid to `results.json`."""
    reviews, provenance = prepare(settings)
    runs: list[Record] = []
    for policy in models.POLICIES:
        grid = list_grid(settings, policy)
        records = [read_sealed(find_folder(settings, run, provenance) / RECORD) for run in grid]
        best = choose_best(filter(None, records))
        if best is None or not all(records):
            continue
        test = test_best(settings, grid[records.index(best)], provenance, reviews)
        runs += [record | {"test": test} if record is best else record for record in records]
    path = settings.folder / "results.json"
    try:
        kept = load_results(path)
        if kept["runs"] == runs and provenance.items() <= kept.get("provenance", {}).items():
            return kept
    except CourseError:
        if path.exists():
            print(f"{path} is damaged or in an older format. It was renamed to {set_aside(path).name}.", flush=True)
    save_results({"provenance": provenance | describe_origin(runs), "runs": runs}, path)
    return load_results(path)


def model_folder(settings: Settings, results: dict[str, Any], policy: str) -> Path:
    """The folder of a policy's best model."""
    best = best_run(results, policy)
    run = Run(**{name: best[name] for name in asdict(Run(policy))})
    return find_folder(settings, run, results["provenance"]) / "model"


def test_best(settings: Settings, run: Run, provenance: dict[str, Any], reviews: Reviews) -> dict[str, Any]:
    """Test a policy's best model once; a model that is missing or damaged is trained again."""
    folder = find_folder(settings, run, provenance)
    path = folder / f"test-{fingerprint_code(functions=('init_tester',))}.json"
    if is_sealed(folder / "model"):
        if result := read_sealed(path):
            return result
    else:
        if (folder / "model").exists():
            aside = set_aside(folder / "model", folder.with_name(f"{folder.name}-model"))
            print(f"The model in {folder} is damaged. It was renamed to {aside.name}.", flush=True)
        print(f"The model of {folder.name} is missing, so its run is trained again.", flush=True)
        train_all(settings, run, keep_best=True, again=True)
    result = training.test_model(settings, folder / "model", reviews["test"])
    write_sealed(path, result)
    return result


@explained()
def run_cell(settings: Settings, run: Run) -> Path:
    """Train and test a single run, in the grid or outside it; returns its results file, `cells/<run>.json`."""
    (record,) = train_all(settings, run, workers=1, keep_best=True)
    reviews, provenance = prepare(settings)
    record["test"] = test_best(settings, run, provenance, reviews)
    path = settings.folder / "cells" / f"{identify(run, provenance)}.json"
    save_results({"provenance": provenance | describe_origin([record]), "runs": [record]}, path)
    return path
