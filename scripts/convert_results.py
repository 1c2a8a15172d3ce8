"""Give results files of schema 1 (`policies`, `costs`) the one shape of today, figure for figure.

python scripts/convert_results.py FILE ...
"""

import json
import sys
from pathlib import Path
from typing import Any

from helpers.results import choose_best, save_results

FIELDS = {"reviews": None, "tokens": 512, "validation": None, "encoder": "checkpoint", "head_scale": 1}


def convert(old: dict[str, Any]) -> dict[str, Any]:
    """The same results in today's shape."""
    kept = {name: value for name, value in old.items() if name in ("experiment", "provenance", "found")}
    if "costs" in old:
        return kept | {"runs": [{"policy": policy} | cost for policy, cost in old["costs"].items()]}
    if "policies" in old:
        recipe = old["provenance"]["recipe"]
        return kept | {"runs": [run for item in old["policies"].items() for run in convert_policy(*item, recipe)]}
    return kept | {"runs": [FIELDS | run | {"at_end": True, "history": describe_end(run)} for run in old["runs"]]}


def convert_policy(policy: str, old: dict[str, Any], recipe: dict[str, Any]) -> list[dict[str, Any]]:
    runs = []
    for cell in old["cells"]:
        history = [{"epoch": number} | epoch for number, epoch in enumerate(cell.pop("epochs"), 1)]
        fields = {"policy": policy, "seed": recipe["seed"], "epochs": recipe["epochs"]} | FIELDS | {"at_end": False}
        counted = {name: old[name] for name in ("trainable_parameters",) if name in old}
        runs.append(fields | {"history": history} | cell | counted)
    best = choose_best(runs)
    assert all(best[name] == value for name, value in old["best"].items()), "the best run is another one"
    return [run | {"test": old["test"]} if run is best and "test" in old else run for run in runs]


def describe_end(run: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("loss", "validation_accuracy", "seconds")
    return [{"epoch": run["epochs"]} | {name: run[name] for name in names}]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        save_results(convert(json.loads(path.read_text(encoding="utf-8"))), path)
