"""Is the quick training the same training? Reference and helpers on 5,000 real reviews, three seeds each.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/accuracy.py

Writes benchmarks/accuracy.json after every run and goes on from there when run again; about three hours of one core,
nearly all of them the reference's.
"""

import argparse
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


def train_ours(settings, padded, policy, rate, size) -> float:
    reviews = {split: TokenisedReviews.from_padded(rows) for split, rows in padded.items()}
    return train_cell(settings, reviews, policy, rate, size)[1]["validation_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["reference", "ours"], action="append", help="default: both")
    sides = parser.parse_args().side or ["reference", "ours"]
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
    for seed in SEEDS:
        for policy, (rate, size) in RUNS.items():
            for side in sides:
                run = {"side": side, "policy": policy, "learning_rate": rate, "batch_size": size, "seed": seed}
                if any(run.items() <= done.items() for done in kept["runs"]):
                    continue
                started = time.monotonic()
                train = {"reference": train_reference, "ours": train_ours}[side]
                accuracy = train(replace(settings, seed=seed), padded, policy, rate, size)
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
