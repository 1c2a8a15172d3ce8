"""Is the fast training the same training? Reference and helpers on 5,000 real reviews, three seeds each.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/accuracy.py

Both sides train BitFit three times with each seed, in runs that differ only in dropout's random numbers (`stream`): how
much can two correct programs differ? The reference's second and third runs pad a batch to its longest review, not to
512: the mask hides padding, so this changes only their speed.

Writes benchmarks/accuracy.json after every run and resumes from there when run again; takes about eight hours of one
core, nearly all for the reference. Each run has one thread, and there are as many runs at a time as cores.
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timezone
from pathlib import Path

import reference
import torch
from sides import SIDES, describe_origin, open_trainer
from transformers import TrainerCallback, default_data_collator

from helpers.data import load_reviews
from helpers.settings import Run, load_settings, write_atomically
from helpers.workers import count_workers

FILE = Path(__file__).with_suffix(".json")
REVIEWS = 5000
CELLS = (("full", 3e-4, 32, 1), ("bitfit", 3e-4, 8, 3))  # policy, learning rate, batch size, runs with each seed
SEEDS = (0, 1, 2)


class NewStream(TrainerCallback):
    """From the second step on, dropout uses other random numbers; batches and classifier stay the same."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            torch.manual_seed(self.seed)


def pad_to_longest(rows: list[dict]) -> dict[str, torch.Tensor]:
    batch = default_data_collator(rows)
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: values[:, :longest] if values.ndim == 2 else values for name, values in batch.items()}


def list_runs() -> list[dict]:
    return [
        {"side": side, "policy": policy, "learning_rate": rate, "batch_size": size, "seed": seed, "stream": stream}
        for policy, rate, size, streams in CELLS
        for stream in range(streams)
        for seed in SEEDS
        for side in SIDES
    ]


def train(settings, padded, job: dict) -> dict:
    """Train a run from the list; returns it with its accuracy after the last epoch and its time in seconds."""
    started = time.monotonic()
    run = Run(job["policy"], job["learning_rate"], job["batch_size"], job["seed"], settings.epochs)
    with open_trainer(job["side"], settings, run, padded) as trainer:
        if job["stream"]:
            trainer.add_callback(NewStream(10_000 * job["stream"] + job["seed"]))
            if job["side"] == "reference":
                trainer.data_collator = pad_to_longest
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    finished = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = round(time.monotonic() - started, 1)
    return job | {"validation_accuracy": accuracy, "seconds": seconds, "finished": finished}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    settings = load_settings("full", precision="fp32")
    reviews = load_reviews(settings)
    reviews["train"] = reviews["train"].select(range(REVIEWS))
    del reviews["test"]
    provenance = describe_origin(settings, reviews) | {"epochs": settings.epochs, "threads": 1}
    kept = json.loads(FILE.read_text()) if FILE.exists() else {"provenance": provenance, "runs": []}
    if kept["provenance"] != provenance:
        sys.exit(f"{FILE} was started with another model, data or machine. Rename it to start again.")
    padded = {split: reference.tokenise(rows, settings.model) for split, rows in reviews.items()}
    missing = [job for job in list_runs() if not any(job.items() <= done.items() for done in kept["runs"])]
    with ProcessPoolExecutor(count_workers(), multiprocessing.get_context("spawn")) as pool:
        for done in as_completed(pool.submit(train, settings, padded, job) for job in missing):
            kept["runs"].append(done.result())
            write_atomically(FILE, json.dumps(kept, indent=1) + "\n")
            print(kept["runs"][-1], flush=True)


if __name__ == "__main__":
    main()
