"""What a student's functions do, as plain JSON data: run in the student's process, judged elsewhere (`checks`)."""

import contextlib
import functools
import gc
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import optuna
import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from helpers import recipe
from helpers.checks.describe import (
    Mistake,
    describe_data,
    describe_error,
    describe_parameters,
    describe_trainer,
    describe_value,
    make_plain,
    name_kind,
)
from helpers.models import POLICIES, load_classifier, load_tokenizer, quiet_library
from helpers.recipe import CHOICES, SEARCH
from helpers.settings import CourseError


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
        record = {"rows": len(found), "columns": None, "problem": None}
        try:
            record["columns"] = recipe.read_rows(found, 0, len(found))
        except ValueError as error:
            named = (name for name in recipe.COLUMNS if name in str(error))
            unchanged = found.column_names == list(rows) and found.format["type"] is None
            record |= {"problem": str(error), "column": next(named, "input_ids"), "unchanged": unchanged}
        yield record


def _observe_2a(solutions: tuple[Callable, ...], given: dict[str, Any]) -> Iterator[dict]:
    (init_model,) = solutions
    model = given["model"]
    with _without_policies():
        for options in ({}, {"use_bitfit": True}, {}):
            yield from _observe_model(init_model(None, model, **options))
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
    """Build both Trainers, and measure as training does: with what it takes from them, and nothing else."""
    init_trainer, init_tester = solutions
    few = {name: [row[:16] for row in given["val"][name]] for name in recipe.COLUMNS[:3]}
    few = Dataset.from_dict(few | {"label": given["val"]["label"]})
    scope = getattr(init_trainer, "__globals__", {})
    with patch.dict(scope, {"init_model": _right_init_model}), _watched_trainer():
        for options in ({}, {"use_bitfit": True}):
            train, val = Dataset.from_dict(given["train"]), Dataset.from_dict(given["val"])
            with patch.dict(os.environ):  # Some arguments would live on there, in the Trainers that are built later.
                trainer = init_trainer(given["model"], train, val, **options)
            yield {
                "kind": name_kind(trainer, Trainer),
                "model_init": getattr(trainer, "model_init", None) is not None,
            }
            if not isinstance(trainer, Trainer) or trainer.model_init is None:
                return
            data = {name: describe_data(getattr(trainer, f"{name}_dataset")) for name in ("train", "eval")}
            yield describe_trainer(trainer, given["arguments"]) | {"data": data}
            for _ in range(2):
                yield from _observe_model(trainer.call_model_init())
            yield from _observe_metrics(trainer.call_model_init(), trainer.compute_metrics, few, "eval")

        tester = init_tester(given["saved"])
        yield {
            "kind": name_kind(tester, Trainer),
            "model_init": getattr(tester, "model_init", None) is not None,
            "train": getattr(tester, "train_dataset", None) is not None,
        }
        if isinstance(tester, Trainer):
            parameters = describe_parameters(tester.model)
            yield describe_trainer(tester, ["do_train", *recipe.MEASURED]) | {"parameters": parameters}
            yield from _observe_metrics(tester.model, tester.compute_metrics, few, "test")


def _observe_metrics(model: torch.nn.Module, compute_metrics: Callable, few: Dataset, prefix: str) -> Iterator[dict]:
    """Two classifiers that always say the same tell the accuracy from every other metric."""
    trainer = Trainer(model, TrainingArguments("measured", report_to="none"), compute_metrics=compute_metrics)
    mute(trainer)
    for label in (0, 1):
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor([1.0 - label, label]))
        metrics = trainer.predict(few, metric_key_prefix=prefix).metrics
        yield {
            "metrics": {
                name: value if isinstance(value, (int, float)) else type(value).__name__
                for name, value in metrics.items()
                if not name.endswith(("time", "second"))
            }
        }


def _observe_2c(solutions: tuple[Callable, ...], given: dict[str, Any]) -> Iterator[dict]:
    """Run the search with a toy whose accuracies are given: pairs of a cell and an accuracy."""
    (hyperparameter_search_settings,) = solutions
    search = hyperparameter_search_settings()
    yield {"kind": name_kind(search, dict)}
    if not isinstance(search, dict):
        return
    yield {"keys": {str(name): {"kind": describe_value(value), "value": value} for name, value in search.items()}}
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


def mute(trainer: Trainer) -> None:
    for callback in list(trainer.callback_handler.callbacks):
        if "Progress" in type(callback).__name__ or "Printer" in type(callback).__name__:
            trainer.remove_callback(callback)


class _Enough(Exception):
    """The search need not go on: what was seen of it is wrong already."""


class _Toy(torch.nn.Module):
    """The least that a Trainer can train; its loss never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * 0 + 1).sum(), "logits": torch.zeros(len(labels), 2)}


def _right_init_model(trial: Any, model_name: str, use_bitfit: bool = False) -> BertForSequenceClassification:
    """Problem 2b gets a right `init_model` of its own: a mistake in Problem 2a is that problem's alone."""
    model = load_classifier(model_name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = POLICIES["bitfit" if use_bitfit else "full"](name)
    return model


def _watched_trainer() -> Any:
    """A Trainer that is built meanwhile says so if its `model_init` is a model, which the library explains badly."""
    build = Trainer.__init__

    @functools.wraps(build)
    def build_from_function(self, *args: Any, **kwargs: Any) -> None:
        if isinstance(kwargs.get("model_init"), torch.nn.Module):
            raise Mistake(
                "the Trainer's model_init: expected a function, found a model. Hint: the Trainer calls it for each run;"
                " give it the function, not what the function returns."
            )
        build(self, *args, **kwargs)

    return patch.object(Trainer, "__init__", build_from_function)


@contextmanager
def _without_policies() -> Iterator[None]:
    """Problem 2a is to write what `models.apply_policy` does, so the course's own table is empty meanwhile."""
    try:
        with patch.dict(POLICIES, clear=True):
            yield
    except (CourseError, KeyError) as error:
        if "Unknown policy" not in str(error) and str(error) not in ("'bitfit'", "'full'"):
            raise
        raise Mistake(
            "init_model: expected a loop of your own, found the course's policies, which are not there in this check."
            " Hint: set requires_grad of each parameter yourself."
        ) from None


def _table_called_bias(name: str) -> Any:
    """Every classifier built meanwhile has a table with T5's name for it: it is called bias, and is no bias term."""
    build = BertForSequenceClassification.__init__

    @functools.wraps(build)
    def build_with_table(self, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        setattr(self, name, torch.nn.Embedding(4, 2))

    return patch.object(BertForSequenceClassification, "__init__", build_with_table)


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
