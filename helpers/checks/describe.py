"""Describe a student's objects as plain JSON data, and errors in words."""

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

from helpers.recipe import ASKED, CHECKED, PARTS, QUIET, SEARCH, Mistake, read_arguments, read_rows

# Patterns for the libraries' error messages, and hints that explain the mistake. The first match is shown.
HINTS = {
    "should have 0 or 1 argument": "model_init: expected a function, found a model or a function with more arguments."
    " The Trainer calls it for each run: give it a function of the trial that fills in the other arguments itself.",
    "(function|method|partial|str)' object has no attribute 'to'": "the Trainer's `model` must be a loaded model; pass"
    " a function as `model_init`.",
    "Callback requires|is not supported, only": 'report_to="none" needs no other package.',
    "non-zero --logging_steps|--tf32 requires|support bf16": "leave logging and precision out of the arguments: the"
    " course sets them itself.",
    "'NoneType' object has no attribute 'suggest": "hp_space suggests the values; init_model's trial may be None.",
    "'Dataset' object does not support item": "a data set cannot be changed in place; its methods, such as map, return"
    " a new one.",
    "does not support item assignment": "compute_metrics must return a dict that maps metric names to numbers.",
    "text input must be of type|TextEncodeInput": "the tokenizer takes a list of texts, not a data set or a batch;"
    " list(dataset['text']) turns a column into a list.",
    "but got length": "one row per review: for a batch of reviews, return lists with one entry for each of them.",
    "os.PathLike": "expected the model's name: init_model takes the trial, the model's name, and use_bitfit.",
    r"encode_plus|[A-Z]\w+\.\w+\(\) got an unexpected": "correct or remove that name: this version of the library"
    " has none. (evaluation_strategy is now eval_strategy, tokenizer processing_class; encode_plus is gone.)",
    "connect to|cannot be downloaded": "load nothing by a name of your own: use the tokenizer or name that is given.",
    r"^'\w*acc\w*'$|'dict' object has no attribute '(\w*acc|predictions|metrics)": "compute_objective gets a dict of"
    " metrics, with names such as eval_accuracy.",
}
# Hints for errors raised in these files: the library's own advice may be to add what the task does not want.
NEEDED = {
    "/transformers/train": f"the Trainer needs only {', '.join(PARTS)}; TrainingArguments only output_dir, report_to,"
    f" {', '.join(ASKED)}.",
    "/optuna/": f"the search needs only {', '.join(SEARCH)}.",
}
PADDING = (DefaultDataCollator, DataCollatorWithPadding)


def describe_model(classifier: torch.nn.Module) -> dict[str, Any]:
    """Modules and what else decides the loss, the scale of the classifier's weight, and all parameters.

    The scale is 1 for a weight drawn as the library does. For each parameter: its size, whether it is trained, and a
    hash of its values as float32.
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
    parts += [f"data type: {classifier.dtype}", f"number of labels: {getattr(classifier, 'num_labels', None)}"]
    parts += [f"problem_type: {config.problem_type or 'single_label_classification'}"]
    parts += [f"own method: {name}" for name in _list_own_methods(classifier, BertForSequenceClassification)]
    scale = float(weight.float().square().mean().sqrt()) / config.initializer_range
    return {"parts": parts, "scale": scale, "parameters": parameters}


def describe_data(dataset: Any) -> dict[str, Any]:
    """The number of rows in a Trainer's data, and a hash of the values that training uses."""
    label = "labels" if "labels" in (getattr(dataset, "column_names", None) or ()) else "label"
    try:
        rows = read_rows(dataset, 0, len(dataset), ("input_ids", "attention_mask", label))
        return {"rows": len(dataset), "values": _hash(json.dumps([*rows.values()]).encode())}
    except Exception:  # Reading other data may raise anything; in any case it is not the given data.
        return {"rows": len(dataset) if hasattr(dataset, "__len__") else 0, "values": "other columns"}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def describe_trainer(trainer: Trainer) -> dict[str, Any]:
    """What a Trainer was given, and which parts of it training does not use (see `recipe`).

    `overridden` lists the fields that the course sets itself and that differ from the library's defaults; `left_out`
    has what training would silently leave out, each as a pair: what it is, and its name.
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


def _find_left_out(trainer: Trainer) -> list[tuple[str, str]]:
    """A Trainer's parts that are not the usual ones (which reporting callbacks of the library are), and their names."""
    names = ["compute_loss_func", "optimizer", "lr_scheduler"]
    names += ["optimizer_cls_and_kwargs", "preprocess_logits_for_metrics"]
    parts = [(name, getattr(trainer, name)) for name in names]
    for callback in trainer.callback_handler.callbacks:
        if not type(callback).__module__.startswith("transformers.") or isinstance(callback, EarlyStoppingCallback):
            parts.append(("callbacks", callback))
    if trainer.data_collator is not default_data_collator and type(trainer.data_collator) not in PADDING:
        parts.append(("data_collator", trainer.data_collator))
    named = [(what, getattr(part, "__name__", type(part).__name__)) for what, part in parts if part is not None]
    return named + [("own method", name) for name in _list_own_methods(trainer, Trainer) if name != "log"]


def _list_own_methods(found: object, library: type) -> list[str]:
    """The library's methods that a subclass overrides, which changes the training; added methods do not matter."""
    names = [name for name, _ in inspect.getmembers(library, callable) if not name.startswith("__")]
    return [name for name in names if inspect.getattr_static(found, name) is not inspect.getattr_static(library, name)]


def make_plain(value: Any) -> Any:
    """Return the value as JSON would store it; what JSON cannot express becomes text."""
    arrays = (np.generic, np.ndarray, torch.Tensor)
    text = json.dumps(value, default=lambda odd: odd.tolist() if isinstance(odd, arrays) else str(odd))
    return json.loads(text, parse_constant=str)


def describe_error(error: BaseException, solutions: tuple[Callable, ...]) -> str:
    """Say what went wrong, with the lines of the student's file that led there, the first and the last."""
    reason = " ".join(str(error).split())
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
    places = dict.fromkeys(f"{frame.name}, line {frame.lineno}" for frame in [*own[:1], *own[-1:]])
    where = f" in {', then '.join(places)} of {os.path.basename(own[-1].filename)}," if own else ""
    raised_in = frames[-1].filename.replace("\\", "/") if frames else ""
    hints = [hint for pattern, hint in HINTS.items() if re.search(pattern, str(error))]
    hint = next(iter([*hints, *(needed for part, needed in NEEDED.items() if part in raised_in)]), None)
    reason = reason or (own[-1].line if own else "no reason given")  # A bare assert gives none.
    reason = f"{reason[:300].removesuffix('.')}. Hint: {hint}" if hint else reason[:300]
    return f"expected to run to its end, but it stopped{where} with {type(error).__name__}: {reason}"
