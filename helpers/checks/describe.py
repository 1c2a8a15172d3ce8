"""What is seen of a student's objects, and of what goes wrong, in plain JSON data and in words."""

import hashlib
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from helpers import recipe

COLLATORS = ("default_data_collator", "DefaultDataCollator", "DataCollatorWithPadding")
# What the libraries say of a mistake, and what it is.
HINTS = {
    "should have 0 or 1 argument": "the Trainer calls model_init with the trial alone: give it a function of the trial"
    " that knows the other arguments.",
    "save and eval strategy to match": "nothing is saved on the way, so there is no best model to load.",
    "incompatible with providing the `optimizers`": "leave them out: everybody's runs have the library's own.",
    "does not support item assignment": "compute_metrics returns a dict, from a metric's name to its number.",
    "must be a list of `minimize`": "a direction is the word minimize or the word maximize.",
    "evaluation_strategy": "its name is eval_strategy in this version of transformers.",
    "argument 'tokenizer'": "its name is processing_class in this version of transformers.",
}


class Mistake(Exception):
    """A mistake that is known as such while the student's code runs; the message is the check's."""


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


def describe_value(value: Any) -> str:
    """What a value is, where a class, a function and an object are easily mixed up."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "a function" if callable(value) else f"an object of the class {type(value).__name__}"


def describe_data(dataset: Any) -> dict[str, Any]:
    """How many rows a Trainer's data has, and a hash of the values that decide what is learnt from it."""
    label = "labels" if "labels" in (getattr(dataset, "column_names", None) or ()) else "label"
    try:
        rows = recipe.read_rows(dataset, 0, len(dataset), ("input_ids", "attention_mask", label))
        return {"rows": len(dataset), "values": hashlib.sha256(json.dumps([*rows.values()]).encode()).hexdigest()[:16]}
    except Exception:  # Whatever kind of data it is, and whatever reading it raises: it is not as it was given.
        return {"rows": len(dataset) if hasattr(dataset, "__len__") else 0, "values": "other columns"}


def describe_trainer(trainer: Trainer, names: list[str]) -> dict[str, Any]:
    """What a Trainer has in the fields `names`, and what training does not take over (see `recipe`).

    `overridden` are the fields that the course sets itself, where they are not the library's; `unset` names what else
    was given: the library's own padding and reports are none.
    """
    plain = TrainingArguments(trainer.args.output_dir)
    values = {name: recipe.get_value(trainer.args, name) for name in (*names, *recipe.OVERRIDDEN)}
    return {
        "arguments": {name: values[name] for name in names},
        "overridden": [name for name in recipe.OVERRIDDEN if values[name] != recipe.get_value(plain, name)],
        "unset": {name: ", ".join(found) or "none" for name, found in _find_unset(trainer)},
    }


def _find_unset(trainer: Trainer) -> Iterator[tuple[str, list[str]]]:
    collator, callbacks = trainer.data_collator, trainer.callback_handler.callbacks
    found = {
        "data_collator": [] if getattr(collator, "__name__", type(collator).__name__) in COLLATORS else [collator],
        "compute_loss_func": [trainer.compute_loss_func],
        "optimizers": [trainer.optimizer, trainer.lr_scheduler],
        "optimizer_cls_and_kwargs": [getattr(trainer, "optimizer_cls_and_kwargs", None)],
        "callbacks": [each for each in callbacks if not _only_reports(each)],
        "preprocess_logits_for_metrics": [trainer.preprocess_logits_for_metrics],
    }
    for name, values in found.items():
        yield name, [getattr(value, "__name__", type(value).__name__) for value in values if value is not None]
    # What a subclass adds is its own; what it has in place of the Trainer's changes what training does.
    names = {name for kind in type(trainer).__mro__ for name in vars(kind) if not issubclass(Trainer, kind)}
    names |= {name for name, value in vars(trainer).items() if callable(value)}
    yield (
        "own methods",
        sorted(name for name in names - {"log"} if name[:2] != "__" and callable(getattr(Trainer, name, None))),
    )


def _only_reports(callback: Any) -> bool:
    return type(callback).__module__.startswith("transformers.") and not isinstance(callback, EarlyStoppingCallback)


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
    if isinstance(error, Mistake):
        return reason
    hint = next((hint for text, hint in HINTS.items() if text in str(error)), None)
    if hint:
        reason = f"{reason.removesuffix('.')}. Hint: {hint}"
    return f"expected to run through, but it stopped{where} with {type(error).__name__}: {reason}"
