"""Does `--prune` find as good a run as the exhaustive search? Both grids on a part of IMDb, every run to its end.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/prune.py

Trains all 40 runs on 1,500 reviews and measures them on 1,000 (about half an hour on 2 cores; run again, it goes on
where it stopped), then chooses among their records as `--prune` does: a run's epochs are the same, bit for bit,
whether it is stopped after them or not. Writes benchmarks/prune.json.
"""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd

from helpers.data import load_reviews
from helpers.results import choose_best, list_policies, save_results, select_runs
from helpers.settings import Run, Settings, load_settings, short_name
from helpers.sweep import choose_runs, run_sweep, rungs

FILE = Path(__file__).with_suffix(".json")
TRAIN, VALIDATION = 1500, 1000


def replay_pruning(settings: Settings, records: list[dict]) -> tuple[dict, int]:
    """The record that `--prune` chooses from a policy's exhaustive search, and the epochs that it trains for it."""
    known = {Run(one["policy"], one["learning_rate"], one["batch_size"]): one for one in records}
    left, epochs, before = dict(known), 0, 0
    for until, share in rungs(settings, prune=True):
        if share < 1:
            left = {run: known[run] for run in choose_runs(left, before, math.ceil(share * len(known)))}
        epochs, before = epochs + len(left) * (until - before), until
    return choose_best(left.values()), epochs


def compare(settings: Settings, results: dict) -> dict[str, dict]:
    """Each policy's best run by the exhaustive search and with `--prune`; the difference is in points."""
    found = {}
    for policy in list_policies(results):
        runs = select_runs(results, policy=policy)
        exhaustive, (pruned, epochs) = choose_best(runs), replay_pruning(settings, runs)
        whole = sum(len(run["history"]) for run in runs)
        difference = 100 * (pruned["validation_accuracy"] - exhaustive["validation_accuracy"])
        sides = {"exhaustive": (exhaustive, whole), "pruned": (pruned, epochs)}
        names = ("learning_rate", "batch_size", "validation_accuracy")
        found[policy] = {side: {n: run[n] for n in names} | {"epochs": n} for side, (run, n) in sides.items()}
        found[policy]["difference_points"] = round(difference, 2)
    return found


def main() -> None:
    settings = load_settings("full")
    build = settings.build / "prune"
    reviews, folder = load_reviews(settings), build / f"{short_name(settings.data)}-{TRAIN + VALIDATION}"
    if not folder.exists():
        beside = folder.with_name(f"{folder.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        reviews["train"].select(range(TRAIN + VALIDATION)).to_parquet(beside / "train.parquet")
        reviews["test"].shuffle(seed=0).select(range(VALIDATION)).to_parquet(beside / "test.parquet")
        beside.rename(folder)
    settings = replace(settings, data=str(folder), test_size=VALIDATION / (TRAIN + VALIDATION), build=build)
    results = run_sweep(settings)
    found = compare(settings, results)
    save_results({"provenance": results["provenance"], "found": found, "runs": results["runs"]}, FILE)
    print(pd.json_normalize([{"policy": policy} | row for policy, row in found.items()]).T.to_string())


if __name__ == "__main__":
    main()
