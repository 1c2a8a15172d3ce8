"""The inputs of the checks, and the results that are expected for them, computed with the course's own code."""

import json
import os
import string
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from helpers.checks.describe import describe_data, describe_model, make_plain
from helpers.models import apply_policy, load_classifier, load_tokenizer
from helpers.recipe import ASKED, take_checked
from helpers.settings import Settings

SHORT = ["Dull!<br />I left early.", "It's long.", "A quiet, honest film."]
LONG = ["It begins well, and then it goes on, and on, and on. " * 60, "Good. " * 300, "good " * 600]
# What people tend to clean out of texts: small words, and every sign on the keyboard.
CLEANED = " the baaad #1 that @you said was it; isn't, I’d say, 7/10: “clichés” &amp; no www.dull.org 👎 :) "
CLEANED += string.punctuation
OPTIONS = {"padding": "max_length", "truncation": True, "max_length": 512}
# Hints for common mistakes in 1d, with the changes that cause them: other options of the tokenizer, or another text.
SLIPS: dict[str, dict[str, Any]] = {
    "shorter reviews must be filled up: this is called padding, and is not done by default.": {"padding": False},
    "this pads to the longest text in a batch: pad to the same length everywhere.": {"padding": True},
    "longer reviews must be cut: this is called truncation, and needs a maximum length.": {"truncation": False},
    "the end of a long review was kept; keep its beginning.": {"truncation_side": "left"},
    "the padding comes before the text; it belongs after it.": {"padding_side": "left"},
    "[CLS] and [SEP] are missing; the tokenizer adds them by default.": {"add_special_tokens": False},
    "the text was changed first: `<br />` is part of it.": {"change": lambda text: text.replace("<br />", " ")},
    "the text was cut first; BERT's limit counts tokens, not letters or words.": {"change": lambda text: text[:512]},
}


def give_public(problem: str, model: str) -> dict[str, Any]:
    """The inputs of the student's own checks, always the same; 2b's saved model is in the working folder."""
    if problem == "2c":
        cells = Settings().cells
        # They differ by as little as one review in 5,000, to notice what is rounded, or mixed with the loss.
        return {"accuracies": [[cell, 0.8 + 0.0002 * (7 * index % len(cells))] for index, cell in enumerate(cells)]}
    model = change_model(model, Path.cwd() / "changed")
    if problem == "1d":
        # Only short reviews show whether a solution pads to 512 or to the longest.
        return give_1d(model, SHORT, LONG, [0, 1] * 4)
    if problem == "2a":
        return {"model": model, "table": "relative_attention_bias"}
    return give_2b(model, os.path.abspath("fine-tuned"), SHORT, [index % 8 < 5 for index in range(27)])


def change_model(model: str, folder: Path) -> str:
    """Save a model like this one with other weights and ids, so that functions must use what they are given.

    In half precision, like the course's own; only `load_classifier` converts it to single precision.
    """
    classifier, tokenizer = load_classifier(model), load_tokenizer(model)
    with torch.no_grad():
        for parameter in classifier.bert.parameters():
            parameter += 0.001
    classifier.bert.half().save_pretrained(folder)
    ids = tokenizer.get_vocab()
    words = sorted(ids, key=ids.get)
    (folder / "vocab.txt").write_text("\n".join(words[:1000] + words[:999:-1]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.special_tokens_map))
    return str(folder)


def give_1d(model: str, short: list[str], long: list[str], labels: list[int]) -> dict[str, Any]:
    """Short reviews, then these and long ones, in no order: neither by length nor by alphabet.

    The last short one has every sign: what changes one sign alone shows in a simple review before.
    """
    short = [*short[:-1], short[-1] + CLEANED]
    reviews = [{"text": texts, "label": labels[: len(texts)]} for texts in (short, [*short, *long])]
    return {"model": model, "reviews": reviews}


def give_2b(model: str, saved: str, texts: list[str], positive: list[bool]) -> dict[str, Any]:
    """16 training and 11 validation reviews of 512 ids each, and a fine-tuned model saved in the folder `saved`.

    Shares of 11 have no short decimal form, which shows whether an accuracy is rounded.
    """
    texts = (texts * len(positive))[: len(positive)]
    ids = load_tokenizer(model)(texts, **OPTIONS)
    rows = Dataset.from_dict({"text": texts, "label": [int(label) for label in positive]} | dict(ids))
    classifier = load_classifier(model)
    torch.nn.init.normal_(classifier.bert.pooler.dense.bias)
    classifier.save_pretrained(saved)
    load_tokenizer(model).save_pretrained(saved)
    return {"model": model, "saved": saved, "train": rows[:16], "val": rows[16:]}


def expect(problem: str, given: dict[str, Any]) -> dict[str, Any]:
    """What `judge` compares with the records from `observe`, as plain JSON data."""
    return make_plain(EXPECTATIONS[problem](given))


def _expect_1d(given: dict[str, Any]) -> dict[str, Any]:
    """The expected columns of the reviews, and those that each common mistake would produce, with its hint."""
    tokenizer = load_tokenizer(given["model"])
    right = [rows | dict(tokenizer(rows["text"], **OPTIONS)) for rows in given["reviews"]]
    slips = []
    for rows in right:
        masks = [[1 - value for value in mask] for mask in rows["attention_mask"]]
        inverted = {"attention_mask": masks, "hint": "the mask is the wrong way round: 1 for a token, 0 for padding."}
        slips.append([rows | inverted])
        for hint, slip in SLIPS.items():
            options = OPTIONS | slip
            texts = [*map(options.pop("change", str), rows["text"])]
            tokenizer.truncation_side = options.pop("truncation_side", "right")  # Not an option of the call.
            slips[-1].append(rows | dict(tokenizer(texts, **options)) | {"hint": hint})
    return {"reviews": right, "slips": slips}


def _expect_2a(given: dict[str, Any]) -> dict[str, Any]:
    models, table = _expect_models(given["model"]), f"bert.{given['table']}.weight"
    for policy, model in models.items():
        model["parameters"][table] = {"numbers": 0, "trained": policy == "full", "values": None}
    return {"models": models, "table": table}


def _expect_2b(given: dict[str, Any]) -> dict[str, Any]:
    off = ("do_train", "prediction_loss_only", "batch_eval_metrics", "dataloader_drop_last")
    return {
        "models": _expect_models(given["model"]),
        "saved": describe_model(load_classifier(given["saved"])),
        "arguments": ASKED | take_checked(TrainingArguments("nowhere", **ASKED)),
        "tester": dict.fromkeys(off, False) | {"label_names": None, "eval_do_concat_batches": True},
        "labels": given["val"]["label"],
        "train_dataset": describe_data(Dataset.from_dict(given["train"])),
        "eval_dataset": describe_data(Dataset.from_dict(given["val"])),
    }


def _expect_models(model: str) -> dict[str, dict[str, Any]]:
    """The expected model of each policy; the classifier's weight is random, so any values are accepted (None)."""
    models = {}
    for policy in ("full", "bitfit"):
        models[policy] = describe_model(apply_policy(load_classifier(model), policy))
        models[policy]["parameters"]["classifier.weight"]["values"] = None
    return models


# For 2c, the given accuracies are all that the judge needs.
EXPECTATIONS = {"1d": _expect_1d, "2a": _expect_2a, "2b": _expect_2b, "2c": dict}
