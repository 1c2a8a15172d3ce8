"""The inputs of the checks, and what right solutions give on them: computed from the course's own code."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from helpers.checks.describe import describe_data, describe_model, make_plain
from helpers.models import apply_policy, load_classifier, load_tokenizer
from helpers.recipe import ASKED, take_checked
from helpers.settings import Settings, write_atomically

# In no order that a solution might sort them by: not by length, nor by words; with all that people like to clean away.
SHORT = ["A quiet, honest film.", "Not bad at all, but 7 clichés &amp; no plot.", "Dull!<br />I left early."]
LONG = ["It begins well, and then it goes on, and on, and on. " * 60, "Good. " * 300, "good " * 600]
OPTIONS = {"padding": "max_length", "truncation": True, "max_length": 512}
# Hints for mistakes that are often made in 1d, and what makes them: other options of the tokenizer, another text.
SLIPS: dict[str, dict[str, Any]] = {
    "shorter reviews are filled up: that is called padding, and does not happen by itself.": {"padding": False},
    "that pads to the longest of the texts in a batch: pad to the same length everywhere.": {"padding": True},
    "longer reviews are cut: that is called truncation, and has a length of its own.": {"truncation": False},
    "the end of a long review was kept; its beginning is what stays.": {"truncation_side": "left"},
    "padding stands before the text; it belongs behind it.": {"padding_side": "left"},
    "[CLS] and [SEP] are missing; the tokenizer adds them by itself.": {"add_special_tokens": False},
    "the text was changed before: `<br />` is a part of it.": {"change": lambda text: text.replace("<br />", " ")},
    "the text was cut before; BERT's limit counts tokens, not letters or words.": {"change": lambda text: text[:512]},
}


def give_public(problem: str, model: str) -> dict[str, Any]:
    """The inputs of the student's own checks, always the same; 2b's saved model lies in the working folder."""
    if problem == "1d":
        # Short reviews alone tell padding to 512 from padding to the longest.
        return give_1d(change_vocabulary(model, "changed"), SHORT, LONG, [0, 1] * 4)
    if problem == "2a":
        return {"model": change_model(model, "changed"), "table": "relative_attention_bias"}
    if problem == "2b":
        return give_2b(
            change_model(model, "changed"), os.path.abspath("fine-tuned"), SHORT, [index % 8 < 5 for index in range(24)]
        )
    cells = Settings().cells
    return {"accuracies": [[cell, 0.5 + 0.02 * (7 * index % len(cells))] for index, cell in enumerate(cells)]}


def change_model(model: str, folder: str) -> str:
    """Save a model like this one with other weights, which a function finds that goes by the name it is given.

    In half precision, as the course's own, which only `load_classifier` makes single.
    """
    classifier = load_classifier(model)
    with torch.no_grad():
        for parameter in classifier.bert.parameters():
            parameter += 0.001
    classifier.bert.half().save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return os.path.abspath(folder)


def change_vocabulary(model: str, folder: str) -> str:
    """Save a tokenizer like this model's with other ids, which a function does not find under a name of its own."""
    tokenizer = load_tokenizer(model)
    ids = tokenizer.get_vocab()
    words = sorted(ids, key=ids.get)
    write_atomically(Path(folder, "vocab.txt"), "\n".join(words[:1000] + words[:999:-1]))
    write_atomically(Path(folder, "tokenizer_config.json"), json.dumps(tokenizer.special_tokens_map))
    load_tokenizer(folder).save_pretrained(folder)
    return os.path.abspath(folder)


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
    return {"model": model, "saved": saved, "train": rows[:16], "val": rows[16:]}


def expect(problem: str, given: dict[str, Any]) -> dict[str, Any]:
    """What `judge` compares with the records of `observe`, as plain JSON data."""
    return make_plain(EXPECTATIONS[problem](given))


def _expect_1d(given: dict[str, Any]) -> dict[str, Any]:
    """The columns of the reviews, and what each of the slips would make of them, with its hint."""
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
            tokenizer.truncation_side = options.pop("truncation_side", "right")  # It is no option of a call.
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
        "saved": describe_model(load_classifier(given["saved"]))["parameters"],
        "arguments": ASKED | take_checked(TrainingArguments("nowhere", **ASKED)),
        "tester": dict.fromkeys(off, False) | {"label_names": None, "eval_do_concat_batches": True},
        "labels": given["val"]["label"],
        "train_dataset": describe_data(Dataset.from_dict(given["train"])),
        "eval_dataset": describe_data(Dataset.from_dict(given["val"])),
    }


def _expect_models(model: str) -> dict[str, dict[str, Any]]:
    """From a policy to its model; the values of the classifier are drawn, hence any (None)."""
    models = {}
    for policy in ("full", "bitfit"):
        classifier = apply_policy(load_classifier(model), policy)
        models[policy] = describe_model(classifier) | {"head": classifier.config.initializer_range}
        for name, facts in models[policy]["parameters"].items():
            facts["values"] = facts["values"] if name.startswith("bert.") else None
    return models


# Of 2c the accuracies are all that is expected.
EXPECTATIONS = {"1d": _expect_1d, "2a": _expect_2a, "2b": _expect_2b, "2c": dict}
