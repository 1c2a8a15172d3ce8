"""How many times faster than the usual solution? Reference and helpers on the same real reviews, in one run.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/speed.py

For both policies and batches of 8, 32 and 128: one process with all cores for the reference, then one worker per core
for the helpers; training and validation are timed separately. Writes benchmarks/speed.json, or speed_bf16.json with
COURSE_PRECISION=bf16; takes four to six minutes on 2 cores.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import reference
from sides import SIDES, describe_origin, open_trainer, save
from transformers import TrainerCallback

from helpers.data import load_reviews
from helpers.prepare import choose_precision
from helpers.results import peak_memory_gb
from helpers.settings import Run, load_settings
from helpers.workers import call, count_workers, open_executor

POLICIES = ("full", "bitfit")
BATCH_SIZES = (8, 32, 128)
REVIEWS = {"train": 512, "validation": 256}
EPOCH = {"training": 20_000, "validation": 5_000}  # reviews in an epoch of the assignment


class Timer(TrainerCallback):
    """The seconds of one epoch's training, without the first step, which still allocates memory."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.seconds = -time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter()


def measure(settings, padded, side: str, run: Run, threads: int, start) -> dict[str, float]:
    """Train and validate once; returns examples per second for both, and the process's peak memory in GB."""
    with open_trainer(side, settings, run, padded, threads) as trainer:
        timer = Timer()
        trainer.add_callback(timer)
        start.wait()
        trainer.train()
        start.wait()
        found = trainer.evaluate()
    return {
        "training": (len(padded["train"]) - run.batch_size) / timer.seconds,
        "validation": len(padded["validation"]) / found["eval_runtime"],
        "memory_gb": peak_memory_gb(),
    }


@contextmanager
def open_pool(side: str, count: int) -> Iterator[Executor]:
    """The processes of a side: plain ones, or the engine's workers."""
    if side == "reference":
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            yield pool
    else:
        with open_executor(count, None) as (pool, _):
            yield pool


def measure_side(settings, padded, side: str, run: Run, cores: int) -> dict[str, float]:
    """The total rates of a side's processes, and the memory of the largest one."""
    count, threads = (1, cores) if side == "reference" else (cores, 1)
    with multiprocessing.Manager() as manager, open_pool(side, count) as pool:
        start = manager.Barrier(count, timeout=600)
        job = settings, padded, side, run, threads, start
        jobs = [pool.submit(call, "speed", "measure", *job) for _ in range(count)]
        found = [job.result() for job in jobs]
    rates = {name: round(sum(one[name] for one in found), 1) for name in EPOCH}
    return rates | {"memory_gb": round(max(one["memory_gb"] for one in found), 2)}


def grid_ratio(cells: list[dict], phases: list[str]) -> float:
    """How much faster the grid is: the reference's time, over ours, for these phases of one epoch of every cell."""
    usual, ours = (sum(EPOCH[phase] / one[side][phase] for one in cells for phase in phases) for side in SIDES)
    return round(usual / ours, 2)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings, cores = load_settings("full"), count_workers()
    precision = choose_precision(settings.precision)
    reviews = load_reviews(settings)
    sample = {split: reviews[split].select(range(count)) for split, count in REVIEWS.items()}
    padded = {split: reference.tokenise(rows, settings.model) for split, rows in sample.items()}
    started, cells = time.monotonic(), []
    for policy in POLICIES:
        for size in BATCH_SIZES:
            run = Run(policy, 3e-4, size, epochs=1, at_end=True)
            rates = {side: measure_side(settings, padded, side, run, cores) for side in SIDES}
            cells.append({"policy": policy, "batch_size": size} | rates)
            print(cells[-1], flush=True)
    ratio = {name: grid_ratio(cells, [name]) for name in EPOCH} | {"epoch": grid_ratio(cells, [*EPOCH])}
    wall_seconds = round(time.monotonic() - started, 1)
    provenance = {"precision": precision, "cores": cores, "wall_seconds": wall_seconds}
    name = "speed_bf16" if precision == "bf16" else "speed"
    save(name, describe_origin(settings, sample) | provenance, {"cells": cells, "ratio": ratio})
    print(f"Over these cells, times as fast as the reference: {ratio}")


if __name__ == "__main__":
    main()
