"""Does `--prune` find as good a cell as the exhaustive search? Both grids on a part of IMDb, every cell to its end.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/prune.py

Trains all 40 cells on 1,500 reviews and measures them on 1,000 (about half an hour on 2 cores; run again, it goes on
where it stopped), then chooses among their records as `--prune` does: a cell's epochs are the same, bit for bit,
whether it is stopped after them or not. Writes benchmarks/prune.json.
"""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from helpers.data import load_reviews
from helpers.settings import Settings, load_settings, short_name, write_atomically
from helpers.study import Cell
from helpers.sweep import choose_tasks, run_sweep, rungs

FILE = Path(__file__).with_suffix(".json")
TRAIN, VALIDATION = 1500, 1000


class Records:
    """What a queue knows after some epochs of some cells."""

    def __init__(self):
        self.known: dict[Cell, dict] = {}

    def records(self) -> dict[Cell, dict]:
        return self.known


def replay_pruning(settings: Settings, cells: list[dict]) -> dict:
    """The cell that `--prune` chooses from an exhaustive search's cells, and the epochs that it trains for it."""
    every = {(cell["learning_rate"], cell["batch_size"]): cell for cell in cells}
    seen = Records()
    for until, share in rungs(settings, prune=True):
        for task in choose_tasks(settings, seen, until, share):
            seen.known[task.cell] = every[task.cell] | {"epochs": every[task.cell]["epochs"][:until]}
    finished = [cell for cell, record in seen.known.items() if len(record["epochs"]) == settings.epochs]
    best = max(finished, key=lambda cell: every[cell]["validation_accuracy"])
    return {
        "learning_rate": best[0],
        "batch_size": best[1],
        "validation_accuracy": every[best]["validation_accuracy"],
        "epochs": sum(len(record["epochs"]) for record in seen.known.values()),
    }


def compare(settings: Settings, results: dict) -> dict[str, dict]:
    """Each policy's best cell by the exhaustive search and with `--prune`; the difference is in points."""
    found = {}
    for policy, measured in results["policies"].items():
        pruned = replay_pruning(settings, measured["cells"])
        difference = 100 * (pruned["validation_accuracy"] - measured["best"]["validation_accuracy"])
        exhaustive = measured["best"] | {"epochs": sum(len(cell["epochs"]) for cell in measured["cells"])}
        found[policy] = {"exhaustive": exhaustive, "pruned": pruned, "difference_points": round(difference, 2)}
    return found


def shorten(cell: dict) -> dict:
    epochs = [{name: epoch[name] for name in ("loss", "validation_accuracy")} for epoch in cell["epochs"]]
    return {name: cell[name] for name in ("learning_rate", "batch_size", "validation_accuracy")} | {"epochs": epochs}


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
    kept = {
        "provenance": results["provenance"],
        "found": compare(settings, results),
        "policies": {
            policy: {"best": measured["best"], "cells": list(map(shorten, measured["cells"]))}
            for policy, measured in results["policies"].items()
        },
    }
    write_atomically(FILE, json.dumps(kept, indent=1) + "\n")
    print(pd.json_normalize([{"policy": policy} | row for policy, row in kept["found"].items()]).T.to_string())


if __name__ == "__main__":
    main()
