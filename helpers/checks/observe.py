"""Run a student's functions and record what they do, as plain JSON data; it is judged elsewhere (`judge`)."""

import functools
import gc
import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import optuna
import torch
from datasets import Dataset
from transformers import BertForSequenceClassification, BertModel, PrinterCallback, Trainer, TrainingArguments

from helpers.checks.describe import describe_error, describe_model, describe_trainer, make_plain
from helpers.models import POLICIES, apply_policy, load_classifier, load_tokenizer, quiet_library
from helpers.recipe import CHOICES, COLUMNS, HARMLESS, MEANINGS, SEARCH, UNUSED, Mistake, demand, read_rows, require
from helpers.settings import Settings, to_number

# Settings of the whole process that a student's code may change: how to read one, how to set it, and its default.
SHARED: dict[str, tuple[Callable, Callable, Any]] = {
    "default data type": (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    "recording of gradients": (torch.is_grad_enabled, torch.set_grad_enabled, True),
}
MANY = {"text": ["Good.", "Bad."] * 1250, "label": [1, 0] * 1250}  # More than somebody in a hurry would keep.
OBJECT = ("an object", "call one of Optuna's classes, with (), to get an object.")
FUNCTION = ("a function", "the search calls it for each trial: give the function itself, not what it returns.")
KINDS: dict[str, tuple[Any, tuple[str, str]]] = {
    "hp_space": (Callable, FUNCTION),
    "compute_objective": (Callable | None, FUNCTION),
    "sampler": (optuna.samplers.BaseSampler | None, OBJECT),
    "pruner": (optuna.pruners.BasePruner | None, OBJECT),
}


def observe(problem: str, solutions: tuple[Callable, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Run a problem's functions on the inputs `given` (see `expect`).

    Returns `records`, what was seen step by step, and `stopped`: why it ended early (an error, or a Mistake after which
    there is nothing more to see), or None. The records are judged elsewhere.
    """
    records, stopped = [], None
    try:
        for record in OBSERVERS[problem](given, *solutions):
            records.append(make_plain(record))
        for what, (read, _, right) in SHARED.items():
            hint = "it holds for the whole process: leave it at its default, and restart the kernel."
            demand(f"PyTorch's {what}", right, read(), hint)
    except (Exception, SystemExit) as error:
        stopped = describe_error(error, solutions)
    return {"records": records, "stopped": stopped}


def _observe_1d(given: dict[str, Any], preprocess_dataset: Callable) -> Iterator[dict]:
    tokenizer = load_tokenizer(given["model"])
    for rows in given["reviews"]:
        found = preprocess_dataset(Dataset.from_dict(rows), tokenizer)
        require("preprocess_dataset", found, Dataset)
        if found.format["type"] is None and found[:] == rows:
            hint = "`map` returns a new one, made from what its function returns."
            raise Mistake(f"the data set came back unchanged: {hint}")
        try:
            yield read_rows(found, 0, len(found))
        except Mistake as mistake:
            named = next(name for name in COLUMNS if name in str(mistake))
            raise Mistake(f"{mistake} Hint: {MEANINGS[named]}") from None
    found = preprocess_dataset(Dataset.from_dict(MANY), tokenizer)
    demand("rows for 2,500 short reviews", 2500, len(found), "leave none out, not even a repeated one.")


def _observe_2a(given: dict[str, Any], init_model: Callable) -> Iterator[dict]:
    with patch.dict(POLICIES, dict.fromkeys(POLICIES, _refuse)), _bias_table(given["table"]):
        for seed, options in enumerate(({}, {"use_bitfit": True}, {})):
            torch.manual_seed(seed)
            name = f"init_model with use_bitfit={options.get('use_bitfit', False)}"
            yield _observe_model(init_model(None, given["model"], **options), name)


def _refuse(name: str) -> bool:
    """Replaces the course's policies in check 2a, since students must write what `models.apply_policy` does."""
    hint = "set requires_grad of each parameter yourself."
    raise Mistake(f"init_model: expected a loop of your own, found one of the course's policies. Hint: {hint}")


@contextmanager
def _bias_table(name: str) -> Iterator[None]:
    """Give every BERT built in this context an empty embedding table with `bias` in its name, which is no bias term."""
    build = BertModel.__init__

    @functools.wraps(build)
    def build_with_table(self, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        setattr(self, name, torch.nn.Embedding(0, 2))

    # No checkpoint has it, which must not cause a warning.
    known = patch.object(BertForSequenceClassification, "_keys_to_ignore_on_load_missing", [name])
    with patch.object(BertModel, "__init__", build_with_table), known:
        yield


def _observe_model(classifier: Any, function: str = "model_init") -> dict[str, Any]:
    """Describe a classifier, then zero its weights, so that the next one must be loaded again."""
    require(function, classifier, BertForSequenceClassification)
    described = describe_model(classifier) | {"next": torch.rand(1).item()}
    for parameter in classifier.parameters():
        torch.nn.init.zeros_(parameter)
    return described


def _observe_2b(given: dict[str, Any], init_trainer: Callable, init_tester: Callable) -> Iterator[dict]:
    """Build both Trainers, and measure as training does, with only those parts that it uses."""
    few = {name: [row[:16] for row in given["val"][name]] for name in COLUMNS[:3]}
    few = Dataset.from_dict(few | {"label": given["val"]["label"]})
    known = getattr(init_trainer, "__globals__", {})
    with patch.dict(known, {"init_model": stand_in(known.get("init_model"))}):
        for options in ({}, {"use_bitfit": True}):
            train, val = Dataset.from_dict(given["train"]), Dataset.from_dict(given["val"])
            with patch.dict(os.environ):  # Some arguments set variables, which later Trainers would read.
                trainer = init_trainer(given["model"], train, val, **options)
            require("init_trainer", trainer, Trainer)
            hint = "a Trainer with model=... cannot start afresh, as every run of a search must."
            demand("the Trainer's model_init", "there", "there" if trainer.model_init else "missing", hint)
            demand("training steps in init_trainer", 0, trainer.state.global_step, "it must only build the Trainer.")
            yield describe_trainer(trainer)
            for seed in range(2):
                torch.manual_seed(seed)
                yield _observe_model(trainer.call_model_init())
            yield from _observe_metrics(trainer.call_model_init(), trainer.compute_metrics, few, "eval")

        tester = init_tester(given["saved"])
        require("init_tester", tester, Trainer)
        yield describe_trainer(tester) | describe_model(tester.model)
        yield from _observe_metrics(tester.model, tester.compute_metrics, few, "test")


def stand_in(own: Any) -> Callable:
    """A correct `init_model` for check 2b, so that a mistake in Problem 2a costs points only there.

    It has the parameters of the student's `own`, whatever their names, if check 2a can call that.
    """

    def init_model(trial: Any, model_name: str, use_bitfit: bool = False) -> torch.nn.Module:
        return apply_policy(load_classifier(model_name), "bitfit" if use_bitfit else "full")

    try:
        signature = inspect.signature(own)
        signature.bind(None, "a model", use_bitfit=True)
    except (TypeError, ValueError):
        return init_model

    def called_as_own(*given: Any, **named: Any) -> torch.nn.Module:
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        third = [*bound.args[2:], False][0]
        return init_model(*bound.args[:2], (bound.arguments | bound.kwargs).get("use_bitfit", third))

    return called_as_own


def _observe_metrics(model: torch.nn.Module, compute_metrics: Callable, few: Dataset, prefix: str) -> Iterator[dict]:
    """Evaluate three classifiers, whose results distinguish the accuracy from every other metric.

    Two always predict the same, with logits of either sign, and the one between them is always right.
    """
    trainer = _build_quiet_trainer(model=model, compute_metrics=compute_metrics)
    right = [[-1.0 - row, 2.0] if label else [2.0 + row, 1.0] for row, label in enumerate(few["label"])]
    for logits in ([[3.0, 1.0]] * len(few), right, [[-3.0, -1.0]] * len(few)):
        with model.classifier.register_forward_hook(lambda *seen, logits=logits: seen[-1].new_tensor(logits)):
            metrics = trainer.predict(few, metric_key_prefix=prefix).metrics
        for name, value in metrics.items():
            _require_number(name, value, "the Trainer logs only numbers.")
        yield {name: value for name, value in metrics.items() if not name.endswith(("time", "second"))}


def _require_number(what: str, found: Any, hint: str) -> None:
    demand(what, "a number", "a number" if isinstance(found, (int, float)) else type(found).__name__, hint)


def _observe_2c(given: dict[str, Any], hyperparameter_search_settings: Callable) -> Iterator[dict]:
    """Run the search with a dummy Trainer that trains nothing; the accuracies are given, as pairs with their cells."""
    search = hyperparameter_search_settings()
    require("hyperparameter_search_settings", search, dict)
    _check_keys(search)
    accuracies = {tuple(cell): accuracy for cell, accuracy in given["accuracies"]}
    grid = dict(zip(CHOICES, (Settings().learning_rates, Settings().batch_sizes), strict=True))
    cells, values, directions, losses = [], [], [], iter([1, 4, 1, 5, 9, 2, 6, 3] * 9)

    def rehearse(trial: optuna.Trial, **options: Any) -> None:
        """Do what the Trainer does in a trial, except for the training; the losses are unrelated to the accuracies."""
        directions.append(trial.study.direction.name.lower())
        hint = "this pruner, Optuna's default unless you give another, can stop a cell early; none may be stopped."
        demand("pruner", "NopPruner", type(trial.study.pruner).__name__, hint)
        chosen = toy.hp_space(trial)
        require("hp_space", chosen, dict)
        chosen = make_plain(chosen)
        chosen |= {name: round(value, 12) for name, value in chosen.items() if isinstance(value, float)}  # 3 * 1e-5
        demand("what hp_space returns", CHOICES, sorted(chosen), "return a dict with exactly these names.")
        for name in CHOICES:
            found, allowed = repr(chosen[name]), ", ".join(map(str, grid[name]))
            wanted = found if found in map(repr, grid[name]) else f"one of {allowed}"
            demand(name, wanted, found, "let the trial choose one of these values.")
        cell = tuple(chosen[name] for name in CHOICES)
        hint = "let the trial choose, with a sampler for grids, which repeats no cell."
        demand(f"the cell {cell}", "once", "twice" if cell in cells else "once", hint)
        cells.append(cell)
        times = dict.fromkeys(("eval_runtime", "eval_samples_per_second", "eval_steps_per_second"), 1.0)
        measured = {"eval_loss": next(losses), "eval_accuracy": accuracies[cell], **times, "epoch": 1.0}
        toy.objective = to_number(toy.compute_objective(measured))
        _require_number("what compute_objective returns", toy.objective, "return a metric, such as eval_accuracy.")
        trial.report(toy.objective, step=1)
        values.append(toy.objective)

    toy = _build_quiet_trainer(model_init=lambda: torch.nn.Linear(1, 1))
    toy.train = rehearse
    toy.hyperparameter_search(**{name: value for name, value in search.items() if name in SEARCH})
    yield {"cells": cells, "values": values, "direction": directions[0]}


def _check_keys(search: dict[str, Any]) -> None:
    """Accept the keys that determine a search, or are harmless with their values; reject all others by name."""
    known = (*SEARCH, *HARMLESS, *UNUSED)
    for name, value in search.items():
        if name not in known:
            raise Mistake(
                f"key {name}: expected no such key, found it. Hint: the search needs only {', '.join(SEARCH)}."
            )
        if name in UNUSED and value not in UNUSED[name]:
            hint = "leave it out: every cell is trained to its end, one after another."
            demand(f"key {name}", UNUSED[name][0], value, hint)
    for name, (wanted, other) in {"direction": ("maximize", "minimize"), "backend": ("optuna", None)}.items():
        if search.get(name, other) not in (wanted, other):
            demand(f"key {name}", wanted, search[name], "Optuna's best trial is the one with the highest accuracy.")
    for name, (kind, (wanted, hint)) in KINDS.items():
        value = search.get(name)
        if not isinstance(value, kind):
            demand(f"key {name}", wanted, f"the class {value.__name__}" if isinstance(value, type) else value, hint)


def _build_quiet_trainer(**options: Any) -> Trainer:
    arguments = TrainingArguments("quiet", report_to="none", disable_tqdm=True)
    arguments._n_gpu, arguments.per_device_eval_batch_size = min(arguments.n_gpu, 1), 16
    trainer = Trainer(args=arguments, **options)
    trainer.remove_callback(PrinterCallback)
    return trainer


OBSERVERS = {"1d": _observe_1d, "2a": _observe_2a, "2b": _observe_2b, "2c": _observe_2c}


@contextmanager
def quiet_workshop() -> Iterator[None]:
    """Work in a temporary folder, without progress bars, logs and warnings."""
    with (
        quiet_library(),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
        ExitStack() as restore,
    ):
        warnings.simplefilter("ignore")
        restore.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        for read, put, _ in SHARED.values():
            restore.callback(put, read())
        restore.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        # The Trainer collects garbage several times per run: half a second each, unless loaded objects are exempt.
        restore.callback(gc.unfreeze)
        gc.freeze()
        restore.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        yield
