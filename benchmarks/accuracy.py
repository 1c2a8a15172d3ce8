"""Is the quick training the same training? Reference and helpers on 5,000 real reviews, three seeds each.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/accuracy.py

Writes benchmarks/accuracy.json after every run and goes on from there when run again; about three hours of one core,
nearly all of them the reference's.

    python benchmarks/accuracy.py --streams 3

adds runs of ours that differ from the first in dropout's random numbers alone, as the reference's do: how far apart
may two right programs be?
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import reference
import torch

from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import fingerprint_model
from helpers.results import describe_machine, describe_versions
from helpers.settings import load_settings, short_name, write_atomically
from helpers.training import TokenisedReviews, train_cell

FILE = Path(__file__).with_suffix(".json")
REVIEWS = 5000
RUNS = {"full": (3e-4, 32), "bitfit": (3e-4, 8)}  # learning rate, batch size
SEEDS = (0, 1, 2)


def train_reference(settings, padded, policy, rate, size) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer = reference.init_trainer(
            settings.model,
            padded["train"],
            padded["validation"],
            policy == "bitfit",
            output_dir=folder,
            learning_rate=rate,
            per_device_train_batch_size=size,
            num_train_epochs=settings.epochs,
            logging_strategy="no",
            seed=settings.seed,
        )
        trainer.train()
        return trainer.evaluate()["eval_accuracy"]


def train_ours(settings, padded, policy, rate, size, stream: int = 0) -> float:
    """With a `stream`, dropout draws other random numbers from the second step on; batches and head stay the same."""
    reviews = {split: TokenisedReviews.from_padded(rows) for split, rows in padded.items()}
    steps = itertools.count()

    def change_stream() -> None:
        if stream and next(steps) == 0:
            torch.manual_seed(10_000 * stream + settings.seed)

    record = train_cell(settings, reviews, policy, rate, size, on_step=change_stream)[1]
    return record["validation_accuracy"]


def list_runs(sides, policies, streams: int) -> list[dict]:
    return [
        {"side": side, "policy": policy, "learning_rate": RUNS[policy][0], "batch_size": RUNS[policy][1]}
        | {"seed": seed, "stream": stream}
        for stream in range(streams)
        for seed in SEEDS
        for policy in policies
        for side in sides
        if side == "ours" or stream == 0
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["reference", "ours"], action="append", help="default: both")
    parser.add_argument("--policy", choices=list(RUNS), action="append", help="default: both")
    parser.add_argument("--streams", type=int, default=1, help="of dropout's random numbers, for our side (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings("full")
    reviews = load_reviews(settings)
    reviews["train"] = reviews["train"].select(range(REVIEWS))
    del reviews["test"]
    provenance = {
        "model": {"name": short_name(settings.model), "fingerprint": fingerprint_model(settings.model)},
        "data": {
            "name": short_name(settings.data),
            "fingerprint": fingerprint_reviews(reviews),
            "train": len(reviews["train"]),
            "validation": len(reviews["validation"]),
        },
        "epochs": settings.epochs,
        "threads": 1,
        "versions": describe_versions(),
        "hardware": describe_machine(),
    }
    kept = json.loads(FILE.read_text()) if FILE.exists() else {"provenance": provenance, "runs": []}
    if kept["provenance"] != provenance:
        sys.exit(f"{FILE} was begun with another model, data or machine. Move it aside to begin anew.")
    padded = {split: reference.tokenise(rows, settings.model) for split, rows in reviews.items()}
    for run in list_runs(args.side or ["reference", "ours"], args.policy or list(RUNS), args.streams):
        if run in ({name: done[name] for name in run} for done in kept["runs"]):
            continue
        started = time.monotonic()
        how = replace(settings, seed=run["seed"]), padded, run["policy"], run["learning_rate"], run["batch_size"]
        accuracy = train_reference(*how) if run["side"] == "reference" else train_ours(*how, run["stream"])
        run |= {"validation_accuracy": accuracy, "seconds": round(time.monotonic() - started, 1)}
        if FILE.exists():  # Another process may have added runs.
            kept = json.loads(FILE.read_text())
        kept["runs"].append(run)
        write_atomically(FILE, json.dumps(kept, indent=1) + "\n")
        print(run, flush=True)
    print(summary(kept).to_string())


def summary(kept: dict) -> pd.DataFrame:
    """Mean validation accuracy in percent by policy and side, its spread over the seeds, and the difference."""
    runs = pd.DataFrame(kept["runs"])
    table = (runs.validation_accuracy * 100).groupby([runs.policy, runs.side]).agg(["mean", "std", "count"]).unstack()
    if {"ours", "reference"} <= set(runs.side):
        table[("difference", "points")] = table[("mean", "ours")] - table[("mean", "reference")]
    return table.round(2)


if __name__ == "__main__":
    main()
