"""Is the quick training the same training? Reference and helpers on 5,000 real reviews, three seeds each.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/accuracy.py

Writes benchmarks/accuracy.json after every run and goes on from there when run again; about three hours of one core,
nearly all of them the reference's. Runs are of one thread, as many at a time as there are cores.

    python benchmarks/accuracy.py --policy bitfit --streams 3

adds runs of both sides that differ from the first in dropout's random numbers alone: how far apart may two right
programs be? The reference's added runs pad a batch to its longest review, not to 512: the mask hides padding, so this
changes their speed alone.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import pandas as pd
import reference
import torch
from transformers import TrainerCallback, default_data_collator

from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import fingerprint_model
from helpers.prepare import strip_padding
from helpers.results import describe_machine, describe_versions
from helpers.settings import Run, load_settings, short_name, write_atomically
from helpers.training import train_run as train_quickly
from helpers.workers import count_workers

FILE = Path(__file__).with_suffix(".json")
REVIEWS = 5000
RUNS = {"full": (3e-4, 32), "bitfit": (3e-4, 8)}  # learning rate, batch size
SEEDS = (0, 1, 2)


class NewStream(TrainerCallback):
    """From the second step on dropout draws other random numbers; batches and head stay the same."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            torch.manual_seed(self.seed)


def pad_to_longest(rows: list[dict]) -> dict[str, torch.Tensor]:
    batch = default_data_collator(rows)
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: values[:, :longest] if values.ndim == 2 else values for name, values in batch.items()}


def train_reference(settings, padded, policy, rate, size, stream: int) -> float:
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
        if stream:
            trainer.data_collator = pad_to_longest
            trainer.add_callback(NewStream(10_000 * stream + settings.seed))
        trainer.train()
        return trainer.evaluate()["eval_accuracy"]


def train_ours(settings, padded, policy, rate, size, stream: int) -> float:
    reviews = {split: strip_padding(rows) for split, rows in padded.items()}
    first = [10_000 * stream + settings.seed] if stream else []

    def change_stream(epoch, history) -> None:
        if first:
            torch.manual_seed(first.pop())

    run = Run(policy, rate, size, settings.seed, settings.epochs)
    return train_quickly(settings, run, reviews, tell=change_stream)[1]["validation_accuracy"]


def train_run(settings, padded, run: dict) -> dict:
    torch.set_num_threads(1)
    train = train_reference if run["side"] == "reference" else train_ours
    started = time.monotonic()
    accuracy = train(
        replace(settings, seed=run["seed"]),
        padded,
        *(run[name] for name in ("policy", "learning_rate", "batch_size", "stream")),
    )
    return run | {"validation_accuracy": accuracy, "seconds": round(time.monotonic() - started, 1)}


def list_runs(sides, policies, streams: int) -> list[dict]:
    return [
        {"side": side, "policy": policy, "learning_rate": RUNS[policy][0], "batch_size": RUNS[policy][1]}
        | {"seed": seed, "stream": stream}
        for stream in range(streams)
        for seed in SEEDS
        for policy in policies
        for side in sides
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["reference", "ours"], action="append", help="default: both")
    parser.add_argument("--policy", choices=list(RUNS), action="append", help="default: both")
    parser.add_argument("--streams", type=int, default=1, help="of dropout's random numbers (default: 1)")
    args = parser.parse_args()
    settings = load_settings("full", precision="fp32")
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
    known = [{name: done[name] for name in list_runs(["ours"], list(RUNS), 1)[0]} for done in kept["runs"]]
    runs = list_runs(args.side or ["reference", "ours"], args.policy or list(RUNS), args.streams)
    with ProcessPoolExecutor(count_workers(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed(pool.submit(train_run, settings, padded, run) for run in runs if run not in known):
            kept["runs"].append(done.result())
            write_atomically(FILE, json.dumps(kept, indent=1) + "\n")
            print(kept["runs"][-1], flush=True)
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
