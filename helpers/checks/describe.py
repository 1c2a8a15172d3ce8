"""What is seen of a student's objects, and of what goes wrong, in plain JSON data and in words."""

import hashlib
import inspect
import json
import os
import re
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from helpers.recipe import CHECKED, QUIET, Mistake, read_arguments, read_rows

PADDING = (DefaultDataCollator, DataCollatorWithPadding)
# What the libraries say of a mistake (a pattern), and what it is. The first that fits is told.
HINTS = {
    "should have 0 or 1 argument": "model_init: expected a function, found a model or a function of more arguments. The"
    " Trainer calls it for each run: give it a function of the trial that knows the others.",
    "save and eval strategy to match": "nothing is saved on the way, so there is no best model to load.",
    "(function|method|partial|str)' object has no attribute 'to'": "the Trainer's `model` is a loaded model; a function"
    " is its `model_init`.",
    "incompatible with providing the `optimizers`": "leave them out: everybody's runs have the library's own.",
    "'Dataset' object does not support item": "a data set stays as it is: its methods, such as map, give back another.",
    "does not support item assignment": "compute_metrics returns a dict, from a metric's name to its number.",
    "must be a list of `minimize`|(bool|int)' object has no attribute 'upper'": "a direction is the word minimize or"
    " the word maximize.",
    "No trials are|'>=' not supported between .* 'int' and": "n_trials is a whole number: one trial for each cell.",
    "attribute 'before_trial'": "the sampler is an object of one of Optuna's classes, which knows the grid.",
    "text input must be of type|TextEncodeInput": "the tokenizer takes a list of texts, and no data set or batch; a"
    " data set's column becomes a list by list(dataset['text']).",
    "but got length": "one row a review: for a batch of reviews, give back a list with an entry for each of them.",
    "encode_plus": "in this version of transformers, the tokenizer itself is called: tokenizer(texts, ...).",
    "os.PathLike": "the model's name was expected: init_model takes the trial, the model's name, and use_bitfit.",
    "evaluation_strategy": "its name is eval_strategy in this version of transformers.",
    "argument 'tokenizer'": "its name is processing_class in this version of transformers.",
    "__init__.. got an unexpected": "this version of the library has no argument of that name: correct it, or leave it"
    " out.",
    "Callback requires|is not supported, only": 'report_to="none" needs no other package.',
    "connect to|over the network": "load nothing by a name of your own: take the tokenizer or the name that is given.",
    "HPSearchBackend|You picked the": 'the backend is "optuna", and needs no other package.',
    r"^'\w*acc\w*'$|'dict' object has no attribute '(\w*acc|predictions)|supposed to be a float": "compute_objective is"
    " given a dict of what is measured, with names such as eval_accuracy, and returns one number.",
}


def describe_model(classifier: torch.nn.Module) -> dict[str, Any]:
    """Labels, number type, parts, the root mean square of the classifier's weight, and what is known of each parameter.

    That is its size, whether it is trained, and a hash of its values as float32.
    """
    parameters = {
        name: {
            "numbers": parameter.numel(),
            "trained": parameter.requires_grad,
            "values": _hash(parameter.detach().cpu().float().contiguous().numpy().tobytes()),
        }
        for name, parameter in classifier.named_parameters()
    }
    config, weight = classifier.config, classifier.state_dict().get("classifier.weight", torch.zeros(1))
    parts = [line.strip() for line in str(classifier).splitlines()[1:]]
    own = [f"own method: {name}" for name in _list_own_methods(classifier, BertForSequenceClassification)]
    return {
        "labels": config.num_labels,
        "dtype": str(classifier.dtype),
        "parts": [*parts, f"problem_type: {config.problem_type or 'single_label_classification'}", *own],
        "head": float(weight.float().square().mean().sqrt()),
        "parameters": parameters,
    }


def describe_data(dataset: Any) -> dict[str, Any]:
    """How many rows a Trainer's data has, and a hash of the values that decide what is learnt from it."""
    label = "labels" if "labels" in (getattr(dataset, "column_names", None) or ()) else "label"
    try:
        rows = read_rows(dataset, 0, len(dataset), ("input_ids", "attention_mask", label))
        return {"rows": len(dataset), "values": _hash(json.dumps([*rows.values()]).encode())}
    except Exception:  # Whatever kind of data it is, and whatever reading it raises: it is not as it was given.
        return {"rows": len(dataset) if hasattr(dataset, "__len__") else 0, "values": "other columns"}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def describe_trainer(trainer: Trainer) -> dict[str, Any]:
    """What a Trainer was given, and what of it training does not take over (see `recipe`).

    `overridden` are the fields that the course sets itself, where they are not the library's; `left_out` is what
    training would go on without, and say nothing.
    """
    arguments, library = read_arguments(trainer.args), read_arguments(TrainingArguments(trainer.args.output_dir))
    others = [name for name in arguments if name not in (*CHECKED, *QUIET)]
    return {
        "arguments": arguments,
        "overridden": [name for name in others if arguments[name] != library[name]],
        "left_out": _find_left_out(trainer),
        "given": [name for name in ("model_init", "train_dataset") if getattr(trainer, name) is not None],
        "train_dataset": describe_data(trainer.train_dataset),
        "eval_dataset": describe_data(trainer.eval_dataset),
    }


def _find_left_out(trainer: Trainer) -> dict[str, str]:
    """The names of what is not the library's own; its padding and its reports are."""
    names = ("compute_loss_func", "optimizer_cls_and_kwargs", "preprocess_logits_for_metrics")
    found = {name: [getattr(trainer, name)] for name in names}
    found["optimizers"] = [trainer.optimizer, trainer.lr_scheduler]
    found["callbacks"] = [
        each
        for each in trainer.callback_handler.callbacks
        if not type(each).__module__.startswith("transformers.") or isinstance(each, EarlyStoppingCallback)
    ]
    if trainer.data_collator is not default_data_collator and type(trainer.data_collator) not in PADDING:
        found["data_collator"] = [trainer.data_collator]
    told = {
        what: [getattr(value, "__name__", type(value).__name__) for value in values if value is not None]
        for what, values in found.items()
    }
    told["own methods"] = [name for name in _list_own_methods(trainer, Trainer) if name != "log"]
    return {what: ", ".join(names) for what, names in told.items() if names}


def _list_own_methods(found: object, library: type) -> list[str]:
    """What a subclass has in place of the library's changes what training does; what it adds is its own."""
    names = [name for name, _ in inspect.getmembers(library, callable) if not name.startswith("__")]
    return [name for name in names if inspect.getattr_static(found, name) is not inspect.getattr_static(library, name)]


def make_plain(value: Any) -> Any:
    """Return what a JSON reader would give back; what JSON has no word for becomes text."""
    arrays = (np.generic, np.ndarray, torch.Tensor)
    text = json.dumps(value, default=lambda odd: odd.tolist() if isinstance(odd, arrays) else str(odd))
    return json.loads(text, parse_constant=str)


def describe_error(error: BaseException, solutions: tuple[Callable, ...]) -> str:
    """Say what went wrong, with the line of the student's file where it happened, if it was there."""
    reason = "".join(str(error).splitlines()[:1])
    if isinstance(error, Mistake):
        return reason[:500]
    files = {solution.__code__.co_filename for solution in solutions if hasattr(solution, "__code__")}
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in files]
    if isinstance(error, NotImplementedError) and frames[-1] in own:
        return (
            f"{own[-1].name} is not written yet. Write it in helpers/exercises.py, save the file,"
            " and run this problem's cells again."
        )
    where = f" in {own[-1].name}, line {own[-1].lineno} of {os.path.basename(own[-1].filename)}," if own else ""
    hint = next((hint for pattern, hint in HINTS.items() if re.search(pattern, str(error))), None)
    reason = reason or (own[-1].line if own else "no reason given")  # A bare assert gives none.
    reason = f"{reason[:300].removesuffix('.')}. Hint: {hint}" if hint else reason[:300]
    return f"expected to run through, but it stopped{where} with {type(error).__name__}: {reason}"
