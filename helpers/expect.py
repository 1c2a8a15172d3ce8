"""The inputs of the checks, and what right solutions give on them: computed from the course's own code."""

import dataclasses
import os
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from helpers.models import POLICIES, load_classifier, load_tokenizer
from helpers.observe import describe_parameters
from helpers.settings import Settings

SHORT = ["A quiet, honest film.", "Dull!<br />I left early.", "Not bad at all, but far from unforgettable."]
LONG = ["It begins well, and then it goes on, and on, and on. " * 60, "Good. " * 300]
# What decides how a cell is trained, apart from the search's choices, stays at the Trainer's defaults.
DEFAULTS = (
    *("eval_delay", "max_steps", "weight_decay", "warmup_steps", "lr_scheduler_type", "gradient_accumulation_steps"),
    *("label_smoothing_factor", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "neftune_noise_alpha"),
)
RECIPE = {"num_train_epochs": 4, "eval_strategy": "epoch"} | {
    field.name: getattr(field.default, "value", field.default)
    for field in dataclasses.fields(TrainingArguments)
    if field.name in DEFAULTS
}
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
    """16 training and 8 validation reviews of 16 ids each, and a fine-tuned model saved in the folder `saved`."""
    texts = (texts * len(positive))[: len(positive)]
    ids = load_tokenizer(model)(texts, padding="max_length", truncation=True, max_length=16)
    rows = Dataset.from_dict({"text": texts, "label": [int(label) for label in positive]} | dict(ids))
    classifier = load_classifier(model)
    torch.nn.init.normal_(classifier.bert.pooler.dense.bias)
    classifier.save_pretrained(saved)
    parts = {"train": rows.select(range(16)).to_dict(), "val": rows.select(range(16, len(rows))).to_dict()}
    return {"model": model, "saved": saved, "arguments": list(RECIPE)} | parts


def expect(problem: str, given: dict[str, Any]) -> dict[str, Any]:
    """What `checks` compares with the records of `observe`, as plain JSON data."""
    return EXPECTATIONS[problem](given)


def _expect_1d(given: dict[str, Any]) -> dict[str, Any]:
    tokenizer = load_tokenizer(given["model"])
    options = {"padding": "max_length", "truncation": True, "max_length": 512}
    return {"reviews": [rows | dict(tokenizer(rows["text"], **options)) for rows in given["reviews"]]}


def _expect_2a(given: dict[str, Any]) -> dict[str, Any]:
    table = f"{given['table']}.weight"
    return {"parameters": _expect_parameters(given["model"]), "table": {table: _trains(table)}}


def _expect_2b(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": _expect_parameters(given["model"]),
        "saved": _expect_parameters(given["saved"]),
        "recipe": RECIPE,
        "labels": {"train": given["train"]["label"], "eval": given["val"]["label"]},
    }


def _expect_2c(given: dict[str, Any]) -> dict[str, Any]:
    rates, sizes = Settings().learning_rates, Settings().batch_sizes
    return {"accuracies": given["accuracies"], "learning_rate": rates, "per_device_train_batch_size": sizes}


EXPECTATIONS = {"1d": _expect_1d, "2a": _expect_2a, "2b": _expect_2b, "2c": _expect_2c}


def _expect_parameters(model: str) -> dict[str, dict[str, Any]]:
    return {name: facts | _trains(name) for name, facts in describe_parameters(load_classifier(model)).items()}


def _trains(name: str) -> dict[str, bool]:
    return {policy: POLICIES[policy](name) for policy in ("full", "bitfit")}
