"""What is kept of runs: records, checkpoints and models are sealed with checksums, so that damage is recognised."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertForSequenceClassification

from helpers.hub import find_folder
from helpers.models import load_tokenizer
from helpers.settings import set_aside, write_atomically


def seal(folder: Path) -> None:
    """Record the checksums of a finished checkpoint's files, so that damage is recognised later."""
    names = {path.name for path in folder.iterdir()} - {"seal.json"}
    write_atomically(folder / "seal.json", json.dumps(_digests(folder, names)))


def is_sealed(folder: Path) -> bool:
    """Whether a checkpoint exists, is complete and unchanged; files that a file manager has added do not matter."""
    try:
        sealed = json.loads((folder / "seal.json").read_text())
        return bool(sealed) and sealed == _digests(folder, sealed)
    except (OSError, ValueError, TypeError):
        return False


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: _digest((folder / name).read_bytes()) for name in sorted(names)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON data with its own checksum."""
    write_atomically(path, json.dumps(content | {"seal": _digest(json.dumps(content).encode())}))


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` has written, or None; a file that was damaged or changed since is renamed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("seal") == _digest(json.dumps(content).encode()):
            return content
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    print(f"{path} is damaged. It was renamed to {set_aside(path).name}; its content is computed again.", flush=True)
    return None


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """A run's checkpoints by step number, without the copies that cloud drives make (`checkpoint-4 (1)`, or ` 2`)."""
    found = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    return {int(steps): path for steps, path in found.items() if steps.isdecimal()}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint of an interrupted run, if there is one.

    An incomplete checkpoint is removed; a damaged one is moved out of the run's folder and kept next to it.
    """
    for _, checkpoint in sorted(list_checkpoints(folder).items(), reverse=True):
        if is_sealed(checkpoint):
            return checkpoint
        if not (checkpoint / "seal.json").exists():
            shutil.rmtree(checkpoint)
            continue
        aside = set_aside(checkpoint, folder.with_name(f"{folder.name}-{checkpoint.name}"))
        print(f"The checkpoint {checkpoint} is damaged. It was renamed to {aside.name}; its epoch is trained again.")
    return None


def drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    (folder / "progress.json").unlink(missing_ok=True)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def save_model(weights: bytes, model: str, folder: Path) -> None:
    """Write a fine-tuned classifier (`weights` in safetensors format) as a sealed folder; `model` is its base model."""
    config = BertConfig.from_pretrained(find_folder(model), num_labels=2, dtype="float32")
    config.architectures = [BertForSequenceClassification.__name__]
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        config.save_pretrained(beside)
        load_tokenizer(model).save_pretrained(beside)
        (beside / "model.safetensors").write_bytes(weights)
        seal(beside)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
