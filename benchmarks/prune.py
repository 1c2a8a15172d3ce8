"""Does `--prune` find as good a run as the exhaustive search? Both grids on a part of IMDb, every run to its end.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/prune.py

Trains all 40 runs on 1,500 reviews and measures them on 1,000 (about half an hour on 2 cores; run again, it goes on
where it stopped), then chooses among their records as `--prune` does: a run's epochs are the same, bit for bit,
whether it is stopped after them or not. Writes benchmarks/prune.json.
"""

import math
from dataclasses import replace
from pathlib import Path

from helpers.prepare import prepare
from helpers.results import choose_best, describe_origin, list_policies, save_results, select_runs
from helpers.runs import train_all
from helpers.settings import Run, Settings, load_settings
from helpers.sweep import choose_runs, list_grid, rungs

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
        sides = {
            "exhaustive": (choose_best(runs), sum(len(run["history"]) for run in runs)),
            "pruned": replay_pruning(settings, runs),
        }
        found[policy] = {
            side: {name: run[name] for name in ("learning_rate", "batch_size", "validation_accuracy")}
            | {"epochs": epochs}
            for side, (run, epochs) in sides.items()
        }
        whole, pruned = (found[policy][side]["validation_accuracy"] for side in sides)
        found[policy]["difference_points"] = round(100 * (pruned - whole), 2)
    return found


def main() -> None:
    settings = load_settings("full")
    grids = [run for policy in ("full", "bitfit") for run in list_grid(settings, policy)]
    runs = train_all(settings, [replace(run, reviews=TRAIN, validation=VALIDATION) for run in grids])
    _, provenance = prepare(settings)
    provenance["data"] |= {"train": TRAIN, "validation": VALIDATION}
    results = {"provenance": provenance | describe_origin(runs), "found": compare(settings, {"runs": runs})}
    save_results(results | {"runs": runs}, FILE)
    print(results["found"])


if __name__ == "__main__":
    main()
