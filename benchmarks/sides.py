"""Shared by the benchmarks: the same run as trained by either side, and what a measurement is based on."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import reference
import torch
from datasets import Dataset
from transformers import Trainer

from helpers.data import fingerprint_reviews
from helpers.models import fingerprint_model
from helpers.prepare import strip_padding
from helpers.results import describe_machine, describe_versions
from helpers.settings import Run, Settings, short_name, write_atomically
from helpers.training import build_trainer

SIDES = ("reference", "ours")


@contextmanager
def open_trainer(
    side: str, settings: Settings, run: Run, padded: dict[str, Dataset], threads: int = 1
) -> Iterator[Trainer]:
    """A side's Trainer for a run, not yet trained, in this process, with a temporary folder.

    `padded` has the training and validation reviews, as `reference.tokenise` returns them.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if side == "reference":
            yield reference.init_trainer(settings.model, padded["train"], padded["validation"], run, Path(folder))
        else:
            reviews = {split: strip_padding(rows) for split, rows in padded.items()}
            trainer = build_trainer(settings, run, reviews, settings.model, Path(folder))
            trainer.args.save_strategy = "no"
            yield trainer


def describe_origin(settings: Settings, reviews: dict[str, Dataset]) -> dict[str, Any]:
    """The model, the reviews and how many they are, the versions and the machine."""
    counts = {split: len(rows) for split, rows in reviews.items()}
    return {
        "model": {"name": short_name(settings.model), "fingerprint": fingerprint_model(settings.model)},
        "data": {"name": short_name(settings.data), "fingerprint": fingerprint_reviews(reviews)} | counts,
        "versions": describe_versions(),
        "hardware": describe_machine(),
    }


def save(name: str, provenance: dict[str, Any], measured: dict[str, Any]) -> None:
    """Write benchmarks/<name>.json: what was measured, on what, and when it was finished."""
    finished = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    content = {"provenance": provenance | {"finished": finished}} | measured
    write_atomically(Path(__file__).with_name(f"{name}.json"), json.dumps(content, indent=1) + "\n")
