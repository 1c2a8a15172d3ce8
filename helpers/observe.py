"""What a student's functions do, as plain JSON data: run in the student's process, judged elsewhere (`checks`)."""

import contextlib
import functools
import gc
import hashlib
import json
import math
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from helpers.checks import CHOICES, COLUMNS, SEARCH
from helpers.models import apply_policy, load_classifier, load_tokenizer, quiet_library


def observe(problem: str, solutions: tuple[Callable, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Run a problem's functions on the inputs `given` (see `expect`).

    Returns `records`, what was seen one after the other, and `stopped`, why the last record is the last, or None.
    Nothing is judged here, so that a grader can do it in another process.
    """
    records, stopped = [], None
    try:
        for record in OBSERVERS[problem](solutions, given):
            records.append(make_plain(record))
    except (Exception, SystemExit) as error:
        stopped = describe_error(error, solutions)
    return {"records": records, "stopped": stopped}


def _observe_1d(solutions: tuple[Callable, ...], given: dict[str, Any]) -> Iterator[dict]:
    (preprocess_dataset,) = solutions
    tokenizer = load_tokenizer(given["model"])
    for rows in given["reviews"]:
        found = preprocess_dataset(Dataset.from_dict(rows), tokenizer)
        yield {"kind": name_kind(found, Dataset)}
        if not isinstance(found, Dataset):
            return
        columns = [name for name in COLUMNS if name in found.column_names]
        yield {"rows": len(found), "columns": {name: list(found.with_format(None)[name]) for name in columns}}


def _observe_2a(solutions: tuple[Callable, ...], given: dict[str, Any]) -> Iterator[dict]:
    (init_model,) = solutions
    model = given["model"]
    for use_bitfit in (False, True, False):
        yield from _observe_model(init_model(None, model, use_bitfit=True) if use_bitfit else init_model(None, model))
    with _table_called_bias(given["table"]):
        yield from _observe_model(init_model(None, model, use_bitfit=True))


def _observe_model(classifier: Any) -> Iterator[dict]:
    """Describe a classifier, then spoil it, so that the next one has to be fresh."""
    kind = name_kind(classifier, BertForSequenceClassification)
    yield {"kind": kind}
    if isinstance(classifier, BertForSequenceClassification):
        yield {
            "labels": classifier.config.num_labels,
            "dtype": str(classifier.dtype),
            "parameters": describe_parameters(classifier),
        }
        for parameter in classifier.parameters():
            torch.nn.init.zeros_(parameter)


def _observe_2b(solutions: tuple[Callable, ...], given: dict[str, Any]) -> Iterator[dict]:
    init_trainer, init_tester = solutions
    train, val = Dataset.from_dict(given["train"]), Dataset.from_dict(given["val"])
    with _given_init_model(init_trainer):
        for use_bitfit in (False, True):
            options = {"use_bitfit": True} if use_bitfit else {}
            trainer = init_trainer(given["model"], train, val, **options)
            yield {
                "kind": name_kind(trainer, Trainer),
                "model_init": getattr(trainer, "model_init", None) is not None,
            }
            if not isinstance(trainer, Trainer) or trainer.model_init is None:
                return
            values = {name: getattr(trainer.args, name) for name in given["arguments"]}
            yield {
                "arguments": {name: getattr(value, "value", value) for name, value in values.items()},
                "optimizer": trainer.args.optim.value,
                "train": count_rows(trainer.train_dataset),
                "eval": count_rows(trainer.eval_dataset),
            }
            for _ in range(2):
                yield from _observe_model(trainer.call_model_init())
            yield from _observe_metrics(trainer, lambda trainer: trainer.evaluate())
        trainer.add_callback(_EnoughEpochs())
        trainer.train()
        measured = [round(entry["epoch"], 2) for entry in trainer.state.log_history if "eval_accuracy" in entry]
        yield {"measured": measured, "parameters": describe_parameters(trainer.model)}

    tester = init_tester(given["saved"])
    yield {
        "kind": name_kind(tester, Trainer),
        "model_init": getattr(tester, "model_init", None) is not None,
        "train": getattr(tester, "train_dataset", None) is not None,
    }
    if isinstance(tester, Trainer):
        yield {"do_train": tester.args.do_train, "parameters": describe_parameters(tester.model)}
        yield from _observe_metrics(tester, lambda tester: tester.predict(val).metrics)


def _observe_metrics(trainer: Trainer, measure: Callable[[Trainer], dict[str, float]]) -> Iterator[dict]:
    """Two classifiers that always say the same tell the accuracy from every other metric."""
    mute(trainer)
    for label in (0, 1):
        with torch.no_grad():
            trainer.model.classifier.weight.zero_()
            trainer.model.classifier.bias.copy_(torch.tensor([1.0 - label, label]))
        metrics = measure(trainer)
        yield {"metrics": {name: value for name, value in metrics.items() if not name.endswith(("time", "second"))}}


def _observe_2c(solutions: tuple[Callable, ...], given: dict[str, Any]) -> Iterator[dict]:
    """Run the search with a toy whose accuracies are given: pairs of a cell and an accuracy."""
    (hyperparameter_search_settings,) = solutions
    search = hyperparameter_search_settings()
    yield {"kind": name_kind(search, dict)}
    if not isinstance(search, dict):
        return
    yield {"keys": sorted(map(str, search))}
    if "hp_space" not in search:
        return
    accuracies = {tuple(cell): accuracy for cell, accuracy in given["accuracies"]}
    cells, records, studies = [], [], []

    def watched_space(trial: optuna.Trial) -> dict[str, Any]:
        chosen = search["hp_space"](trial)
        record = {"pruner": type(trial.study.pruner).__name__, "kind": name_kind(chosen, dict)}
        records.append(record)
        if not isinstance(chosen, dict):
            raise _Enough
        record["chosen"] = {str(name): value for name, value in chosen.items()}
        cell = tuple(chosen.get(name) for name in CHOICES)
        if len(chosen) != 2 or cell not in accuracies or cell in cells:
            raise _Enough
        cells.append(cell)
        studies.append(trial.study)
        return chosen

    toy = Trainer(
        model_init=_Toy,
        args=TrainingArguments("toy", num_train_epochs=1, eval_strategy="epoch", save_strategy="no", report_to="none"),
        train_dataset=[{"labels": 0}],
        eval_dataset=[{"labels": 0}],
        compute_metrics=lambda predictions: {"accuracy": accuracies[cells[-1]]},
    )
    mute(toy)
    rehearsed = {name: value for name, value in search.items() if name in SEARCH} | {"hp_space": watched_space}
    failure = None
    try:
        toy.hyperparameter_search(**rehearsed)
    except _Enough:
        pass
    except Exception as error:
        failure = error
    yield {"trials": records}
    if failure is not None:
        raise failure
    if studies and len(cells) == len(records):
        trials = studies[0].trials
        yield {
            "direction": studies[0].direction.name.lower(),
            "values": [trial.value for trial in trials[: len(cells)]],
            "best": studies[0].best_trial.number,
        }


OBSERVERS: dict[str, Callable[..., Iterator[dict]]] = {
    "1d": _observe_1d,
    "2a": _observe_2a,
    "2b": _observe_2b,
    "2c": _observe_2c,
}


def name_kind(found: Any, wanted: type) -> str:
    """The name of the wanted class if it is one of its objects, else the name of its own."""
    if isinstance(found, wanted):
        return wanted.__name__
    return "another " * (type(found).__name__ == wanted.__name__) + type(found).__name__


def describe_parameters(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Of every parameter: how many numbers it has, whether it is trained, and a hash of its values as float32."""
    return {
        name: {
            "numbers": parameter.numel(),
            "trained": parameter.requires_grad,
            "values": hashlib.sha256(parameter.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()[:16],
        }
        for name, parameter in model.named_parameters()
    }


def count_rows(dataset: Any) -> int:
    return 0 if dataset is None else len(dataset)


def make_plain(value: Any) -> Any:
    """Return what a JSON reader would give back; what JSON has no word for becomes text."""
    if isinstance(value, dict):
        return {str(name): make_plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return make_plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return json.loads(json.dumps(value))
    return str(value)


def describe_error(error: BaseException, solutions: tuple[Callable, ...]) -> str:
    """Say what went wrong, with the line of the student's file where it happened, if it was there."""
    files = {solution.__code__.co_filename for solution in solutions if hasattr(solution, "__code__")}
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in files]
    if isinstance(error, NotImplementedError) and frames[-1] in own:
        return (
            f"{own[-1].name} is not written yet. Write it in helpers/exercises.py, save the file,"
            " and run this problem's cells again."
        )
    where = ""
    if own:
        place = "its cell" if "ipykernel" in own[-1].filename else os.path.basename(own[-1].filename)
        where = f" in {own[-1].name}, line {own[-1].lineno} of {place},"
    reason = next(iter(str(error).splitlines()), "")[:300]
    return f"expected to run through, but it stopped{where} with {type(error).__name__}: {reason}"


def mute(trainer: Trainer) -> None:
    for callback in list(trainer.callback_handler.callbacks):
        if "Progress" in type(callback).__name__ or "Printer" in type(callback).__name__:
            trainer.remove_callback(callback)


class _Enough(Exception):
    """The search need not go on: what was seen of it is wrong already."""


class _EnoughEpochs(TrainerCallback):
    """Ends a training that is longer than it should be."""

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.epoch >= 6


class _Toy(torch.nn.Module):
    """The least that a Trainer can train; its loss never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * 0 + 1).sum(), "logits": torch.zeros(len(labels), 2)}


@contextmanager
def _given_init_model(init_trainer: Callable) -> Iterator[None]:
    """Problem 2b gets a right `init_model` of its own: a mistake in Problem 2a is that problem's alone."""

    def init_model(trial: Any, model_name: str, use_bitfit: bool = False) -> BertForSequenceClassification:
        return apply_policy(load_classifier(model_name), "bitfit" if use_bitfit else "full")

    scope = getattr(init_trainer, "__globals__", {})
    students = scope.get("init_model")
    if not callable(students):
        yield
        return
    scope["init_model"] = init_model
    try:
        yield
    finally:
        scope["init_model"] = students


@contextmanager
def _table_called_bias(name: str) -> Iterator[None]:
    """Every classifier built meanwhile has a table with T5's name for it: it is called bias, and is no bias term."""
    build = BertForSequenceClassification.__init__

    @functools.wraps(build)
    def build_with_table(self, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        setattr(self, name, torch.nn.Embedding(4, 2))

    BertForSequenceClassification.__init__ = build_with_table
    try:
        yield
    finally:
        BertForSequenceClassification.__init__ = build


@contextmanager
def quiet_workshop() -> Iterator[None]:
    """Work in a temporary folder, without bars, logs and warnings."""
    here, verbosity, barless = os.getcwd(), optuna.logging.get_verbosity(), are_progress_bars_disabled()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    disable_progress_bars()
    # The Trainer collects garbage several times a run: half a second each time, unless what is loaded is left out.
    gc.freeze()
    with quiet_library(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.chdir(here)
            gc.unfreeze()
            optuna.logging.set_verbosity(verbosity)
            if not barless:
                enable_progress_bars()
