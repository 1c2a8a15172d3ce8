"""The inputs of the checks, and what right solutions give on them: computed from the course's own code."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from helpers import recipe
from helpers.checks.describe import describe_data, describe_parameters, make_plain
from helpers.models import POLICIES, load_classifier, load_tokenizer
from helpers.settings import Settings

SHORT = ["A quiet, honest film.", "Dull!<br />I left early.", "Not bad at all, but far from unforgettable."]
LONG = ["It begins well, and then it goes on, and on, and on. " * 60, "Good. " * 300]
# Mistakes that are often made in 1d, as a hint and what makes them: an option, another text, another mask.
SLIPS: tuple[tuple[str, dict[str, Any], Callable[[str], str]], ...] = (
    ("the end of a long review was kept; its beginning is what stays.", {"truncation_side": "left"}, str),
    ("padding stands before the text; it belongs behind it.", {"padding_side": "left"}, str),
    ("the text was changed before: `<br />` is a part of it.", {}, lambda text: text.replace("<br />", " ")),
    ("[CLS] and [SEP] are missing; the tokenizer adds them by itself.", {"add_special_tokens": False}, str),
    ("the text was cut before; BERT's limit counts tokens, not letters or words.", {}, lambda text: text[:512]),
)
OPTIONS = {"padding": "max_length", "truncation": True, "max_length": 512}
PARTS = {"train": "train", "eval": "val"}
BIAS_TABLE = "relative_attention_bias"


def give_public(problem: str, model: str) -> dict[str, Any]:
    """The inputs of the student's own checks, always the same; 2b's saved model lies in the working folder."""
    if problem == "1d":
        # Short reviews alone tell padding to 512 from padding to the longest.
        return give_1d(model, SHORT, LONG, [0, 1] * 4)
    if problem == "2a":
        return {"model": model, "table": BIAS_TABLE}
    if problem == "2b":
        return give_2b(model, os.path.abspath("fine-tuned"), SHORT, [index % 8 < 5 for index in range(24)])
    cells = Settings().cells
    return {"accuracies": [[cell, 0.5 + 0.02 * (7 * index % len(cells))] for index, cell in enumerate(cells)]}


def give_1d(model: str, short: list[str], long: list[str], labels: list[int]) -> dict[str, Any]:
    reviews = [{"text": texts, "label": labels[: len(texts)]} for texts in (short, [*short, *long])]
    return {"model": model, "reviews": reviews}


def give_2b(model: str, saved: str, texts: list[str], positive: list[bool]) -> dict[str, Any]:
    """16 training and 8 validation reviews of 512 ids each, and a fine-tuned model saved in the folder `saved`."""
    texts = (texts * len(positive))[: len(positive)]
    ids = load_tokenizer(model)(texts, **OPTIONS)
    rows = Dataset.from_dict({"text": texts, "label": [int(label) for label in positive]} | dict(ids))
    classifier = load_classifier(model)
    torch.nn.init.normal_(classifier.bert.pooler.dense.bias)
    classifier.save_pretrained(saved)
    parts = {"train": rows.select(range(16)).to_dict(), "val": rows.select(range(16, len(rows))).to_dict()}
    return {"model": model, "saved": saved, "arguments": list(_expect_arguments())} | parts


def expect(problem: str, given: dict[str, Any]) -> dict[str, Any]:
    """What `judge` compares with the records of `observe`, as plain JSON data."""
    return EXPECTATIONS[problem](given)


def _expect_1d(given: dict[str, Any]) -> dict[str, Any]:
    tokenizer = load_tokenizer(given["model"])
    right = [rows | dict(tokenizer(rows["text"], **OPTIONS)) for rows in given["reviews"]]
    return {"reviews": right, "slips": [[*_slip(tokenizer, rows)] for rows in right]}


def _slip(tokenizer: Any, right: dict[str, list]) -> Iterator[dict[str, Any]]:
    """What each of the mistakes would make of the same reviews, with its hint."""
    for hint, changes, change in SLIPS:
        tokenizer.truncation_side = changes.get("truncation_side", "right")  # It is no option of a call.
        options = OPTIONS | {name: value for name, value in changes.items() if name != "truncation_side"}
        yield right | dict(tokenizer([change(text) for text in right["text"]], **options)) | {"hint": hint}
    masks = [[1 - value for value in mask] for mask in right["attention_mask"]]
    yield right | {"attention_mask": masks, "hint": "the mask is the wrong way round: 1 for a token, 0 for padding."}


def _expect_2a(given: dict[str, Any]) -> dict[str, Any]:
    table = f"{given['table']}.weight"
    return {"parameters": _expect_parameters(given["model"]), "table": {table: _trains(table)}}


def _expect_2b(given: dict[str, Any]) -> dict[str, Any]:
    wanted = _expect_arguments()
    return {
        "parameters": _expect_parameters(given["model"]),
        "saved": _expect_parameters(given["saved"]),
        "arguments": wanted,
        "tester": {"do_train": False} | {name: wanted[name] for name in recipe.MEASURED},
        "labels": given["val"]["label"],
        "data": {name: describe_data(Dataset.from_dict(given[part])) for name, part in PARTS.items()},
    }


def _expect_arguments() -> dict[str, Any]:
    """The fields that are checked, with their values: those of the table, then those that it does not know."""
    plain = TrainingArguments("nowhere")
    names = [field.name for field in dataclasses.fields(TrainingArguments)]
    unknown = {name: recipe.get_value(plain, name) for name in names if name not in recipe.TRAINER}
    return make_plain({name: value for name, value in recipe.CHECKED.items() if name in names} | unknown)


def _expect_2c(given: dict[str, Any]) -> dict[str, Any]:
    rates, sizes = Settings().learning_rates, Settings().batch_sizes
    return {"accuracies": given["accuracies"], "learning_rate": rates, "per_device_train_batch_size": sizes}


EXPECTATIONS = {"1d": _expect_1d, "2a": _expect_2a, "2b": _expect_2b, "2c": _expect_2c}


def _expect_parameters(model: str) -> dict[str, dict[str, Any]]:
    return {name: facts | _trains(name) for name, facts in describe_parameters(load_classifier(model)).items()}


def _trains(name: str) -> dict[str, bool]:
    return {policy: POLICIES[policy](name) for policy in ("full", "bitfit")}
