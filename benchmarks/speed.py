"""How many times faster than the usual solution? Reference and helpers on the same real reviews, in one run.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/speed.py

For both policies and batches of 8, 32 and 128: one process with all cores for the reference, one worker a core for the
helpers, one after the other; training and validation apart. Writes benchmarks/speed.json; about ten minutes on 2 cores.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import reference
import torch
from transformers import TrainerCallback

from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import fingerprint_model
from helpers.prepare import choose_precision, strip_padding
from helpers.results import describe_machine, describe_versions, peak_memory_gb
from helpers.settings import Run, load_settings, short_name, write_atomically
from helpers.training import build_trainer
from helpers.workers import count_workers

FILE = Path(__file__).with_suffix(".json")
POLICIES = ("full", "bitfit")
BATCH_SIZES = (8, 32, 128)
TRAIN, VALIDATION = 512, 256  # reviews
EPOCH = {"training": 20_000, "validation": 5_000}  # what an epoch of the assignment has of each


class EpochTimer(TrainerCallback):
    """The seconds of one epoch's training, without setting up and without validation."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.seconds = -time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter()


def measure(settings, padded, side: str, policy: str, batch_size: int, threads: int, start) -> dict[str, float]:
    """Train and validate once; returns examples a second of both and the process's peak memory in GB."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if side == "reference":
            trainer = reference.init_trainer(
                settings.model,
                padded["train"],
                padded["validation"],
                policy == "bitfit",
                output_dir=folder,
                learning_rate=3e-4,
                per_device_train_batch_size=batch_size,
                num_train_epochs=1,
                logging_strategy="no",
            )
        else:
            reviews = {split: strip_padding(rows) for split, rows in padded.items()}
            run = Run(policy, 3e-4, batch_size, epochs=1, at_end=True)
            trainer = build_trainer(settings, run, reviews, settings.model, Path(folder))
            trainer.args.save_strategy = "no"
        timer = EpochTimer()
        trainer.add_callback(timer)
        start.wait()
        trainer.train()
        start.wait()
        found = trainer.evaluate()
    return {
        "training": TRAIN / timer.seconds,
        "validation": VALIDATION / found["eval_runtime"],
        "memory_gb": peak_memory_gb(),
    }


def put(results, *arguments) -> None:
    results.put(measure(*arguments))


def measure_side(settings, padded, side: str, policy: str, batch_size: int, cores: int) -> dict[str, float]:
    """The rates of all processes of a side together, and the largest one's memory."""
    context = multiprocessing.get_context("spawn")
    count, threads = (1, cores) if side == "reference" else (cores, 1)
    results, start = context.Queue(), context.Barrier(count)
    processes = [
        context.Process(target=put, args=(results, settings, padded, side, policy, batch_size, threads, start))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    rates = {name: round(sum(one[name] for one in found), 1) for name in ("training", "validation")}
    return rates | {"memory_gb": round(max(one["memory_gb"] for one in found), 2)}


def grid_ratio(cells: list[dict], phases=tuple(EPOCH)) -> float:
    """The reference's time for an epoch of every measured cell over ours: what the whole grid gains."""
    times = {
        side: sum(EPOCH[phase] / one[side][phase] for one in cells for phase in phases)
        for side in ("reference", "ours")
    }
    return times["reference"] / times["ours"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings, cores = load_settings("full"), count_workers()
    reviews = load_reviews(settings)
    sample = {
        "train": reviews["train"].select(range(TRAIN)),
        "validation": reviews["validation"].select(range(VALIDATION)),
    }
    padded = {split: reference.tokenise(rows, settings.model) for split, rows in sample.items()}
    started, cells = time.monotonic(), []
    for policy in POLICIES:
        for size in BATCH_SIZES:
            rates = {side: measure_side(settings, padded, side, policy, size, cores) for side in ("reference", "ours")}
            cells.append({"policy": policy, "batch_size": size} | rates)
            print(cells[-1], flush=True)
    measured = {
        "provenance": {
            "model": {"name": short_name(settings.model), "fingerprint": fingerprint_model(settings.model)},
            "data": {
                "name": short_name(settings.data),
                "fingerprint": fingerprint_reviews(sample),
                "train": TRAIN,
                "validation": VALIDATION,
            },
            "precision": choose_precision(settings.precision),
            "cores": cores,
            "versions": describe_versions(),
            "hardware": describe_machine(),
            "wall_seconds": round(time.monotonic() - started, 1),
            "finished": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "cells": cells,
        "ratio": {
            "training": round(grid_ratio(cells, ("training",)), 2),
            "validation": round(grid_ratio(cells, ("validation",)), 2),
            "epoch": round(grid_ratio(cells), 2),
        },
    }
    write_atomically(FILE, json.dumps(measured, indent=1) + "\n")
    print(f"Over these cells, examples a second here against there: {measured['ratio']}")


if __name__ == "__main__":
    main()
