"""What limits BitFit? Experiments that change one thing at a time: lists of runs, and their results."""

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from transformers import TrainerCallback

from helpers import models, report
from helpers.prepare import prepare
from helpers.results import describe_origin, load_results, peak_memory_gb, save_results
from helpers.runs import check_runs, explained, train_all
from helpers.settings import CourseError, Run, Settings, check_number
from helpers.training import build_trainer
from helpers.workers import call, one_thread, open_executor

RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # The grid's upper edge and beyond.
# What `measure_cost` measures: the titles of its columns, and their units.
COSTS = {
    "step_seconds": ("step (CPU ms)", 1e-3),
    "training_memory_gb": ("memory of training (MB)", 1e-3),
    "optimizer_bytes": ("optimizer (KB)", 1e3),
    "task_bytes": ("stored per task (KB)", 1e3),
}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def list_experiments(base: int) -> dict[str, list[dict[str, Any]]]:
    """The fields that each experiment's runs change; the number of training reviews is `base` unless they change it."""
    few = {"reviews": [base // 4], "tokens": [128], "validation": [base // 2], "epochs": [2]}
    return {
        # The classifier: trained with the rest, trained alone, or frozen but with larger weights.
        "head": vary(policy=("full", "bitfit+head", "head", "bitfit")) + vary(policy=["bitfit"], head_scale=(10, 50)),
        # Learning rates beyond the grid's edge.
        "rate": vary(policy=("bitfit", "bitfit+head"), learning_rate=RATES),
        # 4 epochs against 16, at the grid's highest rate and at the paper's.
        "steps": vary(policy=("bitfit", "bitfit+head"), learning_rate=RATES[:2], epochs=(4, 16)),
        # The number of different reviews at a fixed number of steps.
        "data": [
            change
            for reviews in (base // 16, base // 4, base, *([5 * base] if base >= 4000 else []))
            for change in vary(policy=("full", "bitfit+head"), reviews=[reviews], epochs=[4 * base / reviews])
        ],
        # The encoder: pre-trained, or randomly initialised.
        "pretraining": vary(encoder=("random", "checkpoint"), policy=("full", "bitfit+head", "bitfit")),
        # A larger and better pre-trained encoder, on few and short reviews; each policy at several rates.
        "encoder": [
            change
            for encoder, full_rates in (("checkpoint", (3e-4, 1e-3)), (MINILM, (5e-5, 1e-4)))
            for policy, rates in (("full", full_rates), ("bitfit+head", RATES))
            for change in vary(policy=[policy], encoder=[encoder], learning_rate=rates, **few)
        ],
        # Which biases: all, or only those of the query and of the MLP's first layer.
        "biases": vary(policy=("bitfit+head", "bitfit-qi+head", "head")),
        # The random initialisation of the classifier: the assignment's own run, with all reviews.
        "seeds": vary(policy=["bitfit"], reviews=[None]),
    }


def vary(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination of the values, with the last field changing fastest."""
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def list_runs(settings: Settings, experiment: str, seeds: int = 3) -> list[Run]:
    """The runs of an experiment: 2,000 steps of 8 reviews each (300 in `quick`), unless the experiment varies this."""
    base = 4000 if settings.profile == "full" else 600
    experiments = list_experiments(base)
    if experiment not in [*experiments]:
        raise CourseError(f"Unknown experiment {experiment!r}. Choose one of: {', '.join(experiments)}.")
    pairs = itertools.product(range(check_number("seeds", seeds)), experiments[experiment])
    return [Run(**{"reviews": base} | change, seed=seed) for seed, change in pairs]


@explained()
def run_lab(
    settings: Settings,
    name: str,
    runs: Run | Iterable[Run],
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Train the unfinished runs, write all results to `lab/<name>.json` in the settings' folder, and return them.

    Every run is measured once, at its end.
    """
    runs = [replace(run, at_end=True) for run in check_runs(runs)]
    records = train_all(settings, runs, workers, scheduler)
    _, provenance = prepare(settings)
    provenance["recipe"] = {key: provenance["recipe"][key] for key in ("split_seed", "precision")}
    results = {"experiment": name, "provenance": provenance | describe_origin(records), "runs": records}
    save_results(results, settings.folder / "lab" / f"{name}.json")
    return results


def load_measured(experiment: str) -> dict[str, Any]:
    """The full-size results that come with the course, as `run_lab` or `measure_cost` returned them."""
    path = Path(__file__).parents[1] / "results" / f"lab_{experiment}.json"
    if not path.exists():
        names = [each.stem.removeprefix("lab_") for each in sorted(path.parent.glob("lab_*.json"))]
        raise CourseError(f"There is no {path}. The course has full-size results of: {', '.join(names) or 'nothing'}.")
    return load_results(path)


@explained()
def measure_cost(settings: Settings, steps: int = 60, batch_size: int = 32) -> dict[str, Any]:
    """Measure each policy's costs, in separate processes; the results are also written to `lab/cost.json`.

    `step_seconds` is the median CPU time of a training step in one thread; `training_memory_gb` the peak memory that
    training added to the process; `optimizer_bytes` the size of AdamW's state; and `task_bytes` the size of the file
    that must be stored for the task: what was trained, and the classifier, which was randomly initialised.
    """
    _, provenance = prepare(settings)
    runs = []
    for policy in ("full", "bitfit", "bitfit+head", "head"):
        with open_executor(1, None) as (executor, _):
            job = executor.submit(call, "helpers.lab", "_measure_cost", settings, policy, steps, batch_size)
            while not job.done():  # Ctrl-C may reach another thread, which does not wake this one.
                wait([job], timeout=1)
            runs.append(job.result())
    described = {"steps": steps, "batch_size": batch_size} | describe_origin(runs)
    results = {"experiment": "cost", "provenance": provenance | described, "runs": runs}
    save_results(results, settings.folder / "lab" / "cost.json")
    return results


@explained()
@models.quiet_library()
@one_thread()
def _measure_cost(settings: Settings, policy: str, steps: int, batch_size: int) -> dict[str, Any]:
    started = time.monotonic()
    reviews, _ = prepare(settings)
    run = Run(policy, batch_size=batch_size, epochs=steps * batch_size / len(reviews["train"]), at_end=True)
    trainer = build_trainer(settings, run, reviews, settings.model, whole_table=True)
    trainer.add_callback(clock := TrainerCallback())
    times: list[float] = []  # CPU time, at the beginning and end of every step.
    clock.on_step_begin = clock.on_step_end = lambda *given, **named: times.append(time.process_time())
    before = peak_memory_gb()
    trainer.train()
    durations = np.diff(times)[::2]
    state = trainer.optimizer.optimizer.state.values()
    kept = [value for tensors in state for value in tensors.values() if torch.is_tensor(value)]
    model = trainer.model
    stored = [name for name, value in model.named_parameters() if value.requires_grad or name.startswith("classifier.")]
    return {
        "policy": policy,
        "trainable_parameters": models.count_parameters(model),
        "step_seconds": round(float(np.median(durations[min(5, len(durations) // 2) :])), 5),  # The first are slower.
        "training_memory_gb": round(peak_memory_gb() - before, 3),
        "optimizer_bytes": sum(value.numel() * value.element_size() for value in kept),
        "task_bytes": len(save({name: model.get_parameter(name).detach() for name in stored})),
        "seconds": round(time.monotonic() - started, 2),
    }


def summarise(results: dict[str, Any]) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, one row per combination of the values that the experiment varies."""
    runs, changes = report.read_lab(results)
    columns = {  # Short names; only the rate's is longer than 3e-4, which a narrow window would break at its hyphen.
        "validation": ("validation_accuracy", "mean"),
        "±": ("validation_accuracy", "std"),
        "seeds": ("validation_accuracy", "size"),
        "training": ("train_accuracy", "mean"),
        "parameters": ("trainable_parameters", "first"),
    }
    table = runs.groupby(["policy", *changes], sort=False).agg(**columns)
    if "learning_rate" in changes:
        table = table.rename(index=report.format_rate, level="learning_rate")
    table = table.dropna(axis=1, how="all")  # One seed has no standard deviation.
    return table.rename_axis(index={"learning_rate": "learning rate"}).round(4)


def tabulate_costs(results: dict[str, Any]) -> pd.DataFrame:
    """One row per policy: the costs of a step, of memory and of storage, each with its share of the policy `full`'s."""
    costs = pd.DataFrame(results["runs"]).set_index("policy")
    if not {*COSTS} <= {*costs}:
        raise CourseError("These are not costs from `measure_cost`. For runs, use `summarise`, or draw them.")
    if "full" not in costs.index:
        raise CourseError("Costs are shown relative to those of the policy full: measure it, too.")
    table = costs[["trainable_parameters"]].set_axis(["trained parameters"], axis=1)
    for name, (title, unit) in COSTS.items():
        shares = costs[name] / costs.loc["full", name]
        table[title] = [
            "not measured here" if pd.isna(share) else f"{cost / unit:,.1f} ({share:.{0 if share >= 0.1 else 2}%})"
            for cost, share in zip(costs[name], shares, strict=True)
        ]
    return table
