"""Prepare runs: tokenised reviews without padding, the initial model, and the identity of all that affects results."""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, load_from_disk
from transformers import BertForSequenceClassification

from helpers import exercises, models, recipe
from helpers.checkpoints import is_sealed, seal
from helpers.data import fingerprint_reviews, load_reviews
from helpers.results import fingerprint_code
from helpers.settings import CourseError, Run, Settings, local_folder, short_name

Reviews = dict[str, Dataset]  # train, validation and test, tokenised and without padding
_made_of: tuple[bytes, Any] | None = None  # the file and the module's spec, at refresh_exercises' last import


def refresh_exercises() -> None:
    """Import exercises.py again, unless this function has already imported the file in its present state.

    A run's name contains the hash of the file, which may change while a notebook's kernel is running. If others reload
    the module, as the cells with checks do, it has another `__spec__`, and may have names that the file no longer has.
    """
    global _made_of
    content = Path(exercises.__file__).read_bytes()
    if _made_of is None or content != _made_of[0] or exercises.__spec__ is not _made_of[1]:
        for name in [name for name in vars(exercises) if not name.startswith("__")]:
            delattr(exercises, name)
        importlib.reload(exercises)
        _made_of = content, exercises.__spec__


def preprocess(settings: Settings, reviews: Dataset) -> Dataset:
    """Tokenise reviews with the student's `preprocess_dataset`."""
    with models.quiet_library():
        rows = exercises.preprocess_dataset(reviews, models.load_tokenizer(settings.model))
    recipe.require("preprocess_dataset", rows, Dataset)
    return rows


def strip_padding(dataset: Dataset) -> Dataset:
    """Remove the padding from what `preprocess_dataset` returned; CourseError if that cannot be read.

    The attention mask hides padding from the model, so removing it changes only the speed, not the results.
    """
    rows: dict[str, list] = {"input_ids": [], "token_type_ids": [], "label": []}
    for start in range(0, len(dataset), 1000):
        try:
            columns = recipe.read_rows(dataset, start, min(start + 1000, len(dataset)))
        except ValueError as error:
            raise CourseError(f"preprocess_dataset: {error} See Problem 1d.") from error
        masks = [np.asarray(mask, dtype=bool) for mask in columns["attention_mask"]]
        for name in ("input_ids", "token_type_ids"):
            rows[name] += [np.asarray(row)[mask] for row, mask in zip(columns[name], masks, strict=True)]
        rows["label"] += columns["label"]
    return Dataset.from_dict(rows)


def cut(dataset: Dataset, count: int | None, tokens: int) -> Dataset:
    """The first `count` reviews, each truncated to `tokens` tokens, the last of which is [SEP]."""
    count = count or len(dataset)
    if count > len(dataset):
        raise CourseError(
            f"This run needs {count:,} reviews; there are {len(dataset):,}. Lower its `reviews` or `validation`."
        )
    if tokens >= 512:
        return dataset.select(range(count))
    rows = dataset[:count]
    for name in ("input_ids", "token_type_ids"):
        rows[name] = [ids if len(ids) <= tokens else ids[: tokens - 1] + ids[-1:] for ids in rows[name]]
    return Dataset.from_dict(rows)


def prepare(settings: Settings) -> tuple[Reviews, dict[str, Any]]:
    """Tokenise train, validation and test once, with the student's function; also return the results' provenance."""
    refresh_exercises()
    reviews = load_reviews(settings)
    provenance = {
        "profile": settings.profile,
        "model": {"name": short_name(settings.model), "fingerprint": models.fingerprint_model(settings.model)},
        "data": {
            "name": short_name(settings.data),
            "fingerprint": fingerprint_reviews(reviews),
            **{split: len(rows) for split, rows in reviews.items()},
        },
        "recipe": settings.recipe() | {"precision": choose_precision(settings.precision)},
        "code": fingerprint_code(),
    }
    folder = settings.folder / f"tokens-{_hash(provenance['model'], provenance['data'], provenance['code'])}"
    if (tokens := load_tokens(folder, reviews)) is None:
        beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        try:
            for split, rows in reviews.items():
                found = strip_padding(preprocess(settings, rows))
                with models.quiet_library():
                    found.save_to_disk(beside / split)
                seal(beside / split)
            os.replace(beside, folder)
        except OSError:
            if not folder.exists():  # Otherwise another worker was faster.
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        tokens = {split: load_from_disk(str(folder / split)) for split in reviews}
    return tokens, provenance


def load_tokens(folder: Path, reviews: DatasetDict) -> Reviews | None:
    """The tokenised reviews in a folder; an incomplete or damaged folder is removed, so that it is created again."""
    if all(is_sealed(folder / split) for split in reviews):
        return {split: load_from_disk(str(folder / split)) for split in reviews}
    shutil.rmtree(folder, ignore_errors=True)
    return None


def identify(run: Run, provenance: dict[str, Any]) -> str:
    """A name for a run that changes whenever anything that affects its result changes."""
    decides = {name: provenance["recipe"][name] for name in ("test_size", "split_seed", "precision")}
    fields = {name: float(value) if isinstance(value, int) else value for name, value in asdict(run).items()}
    parts = [fields, provenance["model"], provenance["data"], decides, provenance["code"]]
    if run.encoder not in ("checkpoint", "random"):
        parts.append(models.fingerprint_model(local_folder(run.encoder)))
    return f"{run.policy}-{run.learning_rate:g}-{run.batch_size}-seed{run.seed}-{_hash(*parts)}"


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def choose_precision(precision: str) -> str:
    """Turn `auto` into bf16 on a GPU that has it, else into fp32, which is faster on CPUs (docs/measurements.md)."""
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)  # Colab's T4 emulates.
    return ("bf16" if gpu else "fp32") if precision == "auto" else precision


def find_rows(reviews: Reviews) -> torch.Tensor:
    """The token ids that occur in the reviews of a run, in ascending order."""
    columns = (reviews[split].with_format("arrow")["input_ids"] for split in ("train", "validation"))
    found = [column.combine_chunks().flatten().to_numpy() for column in columns]
    return torch.from_numpy(np.unique(np.concatenate(found)).astype(np.int64))


@contextmanager
def make_start(settings: Settings, run: Run, folder: Path | None = None) -> Iterator[str]:
    """The model that a run starts from: that of the settings, or a modified one in a temporary folder in `folder`."""
    if run.encoder == "checkpoint" and run.head_scale == 1:
        yield settings.model
        return
    torch.manual_seed(run.seed)
    source = settings.model if run.encoder in ("checkpoint", "random") else local_folder(run.encoder)
    model, tokenizer = models.load_classifier(source), models.load_tokenizer(settings.model)
    if run.encoder == "random":
        model = BertForSequenceClassification(model.config)
    if source != settings.model and models.load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
        raise CourseError(f"The encoder {run.encoder} has another vocabulary than {short_name(settings.model)}.")
    with torch.no_grad():
        model.classifier.weight *= run.head_scale
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as made, models.quiet_library():
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        yield made
