"""One cell of the grid: a student's Trainer, made quick and repeatable, trained, recorded and tested."""

import ast
import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback

from helpers import exercises
from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import apply_policy, count_parameters, fingerprint_model, load_classifier, load_tokenizer
from helpers.settings import CourseError, Settings, short_name
from helpers.speed import skip_unused_states

EVALUATION_BATCH = 128


class TokenisedReviews(torch.utils.data.Dataset):
    """Reviews as ids without padding, kept in flat tensors; batches are padded to their longest review only.

    The attention mask makes padding invisible to the model, so leaving it out changes the speed and not the results.
    `flat` has `input_ids` and `token_type_ids` (all tokens, int32), `lengths` and `labels` (reviews, int64).
    """

    def __init__(self, flat: dict[str, torch.Tensor]):
        self.flat = flat
        self.ends = flat["lengths"].cumsum(0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        tokens = slice(self.ends[index] - self.flat["lengths"][index], self.ends[index])
        return {
            "input_ids": self.flat["input_ids"][tokens],
            "token_type_ids": self.flat["token_type_ids"][tokens],
            "labels": self.flat["labels"][index],
        }

    @classmethod
    def from_padded(cls, dataset: Dataset) -> "TokenisedReviews":
        """Take the padding out of what `preprocess_dataset` returned; CourseError where a column is missing."""
        names = ["input_ids", "token_type_ids", "attention_mask"]
        missing = [name for name in [*names, "label"] if name not in dataset.column_names]
        if missing:
            raise CourseError(f"preprocess_dataset returned no column {', '.join(missing)}: see Problem 1d.")
        parts: dict[str, list[np.ndarray]] = {"input_ids": [], "token_type_ids": [], "lengths": []}
        for batch in dataset.select_columns(names).with_format("numpy").iter(1000):
            mask = np.asarray(batch["attention_mask"]) == 1
            if mask.ndim != 2:
                raise CourseError("preprocess_dataset must give every review the same number of ids: see Problem 1d.")
            parts["lengths"].append(mask.sum(axis=1))
            for name in names[:2]:
                parts[name].append(np.asarray(batch[name])[mask].astype(np.int32))
        flat = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}
        return cls(flat | {"labels": torch.tensor(dataset["label"])})

    def first(self, count: int) -> Dataset:
        """The first reviews as the `Dataset` that `init_trainer` expects; only its arguments and model are used."""
        rows = [self[index] for index in range(min(count, len(self)))]
        batch = collate(rows)
        return Dataset.from_dict(
            {"label" if name == "labels" else name: value.tolist() for name, value in batch.items()}
        )

    def sorted_by_length(self) -> tuple["TokenisedReviews", list[int]]:
        """The same reviews, longest first, and the old index of each."""
        order = self.flat["lengths"].argsort(descending=True, stable=True).tolist()
        rows = [self[index] for index in order]
        flat = {name: torch.cat([row[name] for row in rows]) for name in ("input_ids", "token_type_ids")}
        return TokenisedReviews(flat | {name: self.flat[name][order] for name in ("lengths", "labels")}), order


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad to the longest review of the batch; returns (batch, tokens) ids, segments and mask, and (batch,) labels."""
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True).long()
        for name in ("input_ids", "token_type_ids")
    }
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return padded | {"attention_mask": mask.long(), "labels": torch.stack([row["labels"] for row in rows])}


def prepare(settings: Settings) -> tuple[dict[str, TokenisedReviews], dict[str, Any]]:
    """Tokenise train, validation and test with the student's function, once; returns them and their provenance."""
    reviews = load_reviews(settings)
    facts = {
        "name": short_name(settings.data),
        "fingerprint": fingerprint_reviews(reviews),
        **{split: len(rows) for split, rows in reviews.items()},
    }
    tokenizer = load_tokenizer(settings.model)
    key = [facts["fingerprint"], fingerprint_model(settings.model), code_fingerprint(exercises)]
    folder = settings.folder / f"tokens-{hashlib.sha256(''.join(key).encode()).hexdigest()[:16]}"
    tokenised = {}
    for split, rows in reviews.items():
        path = folder / f"{split}.safetensors"
        if not path.exists():
            disable_progress_bars()
            flat = TokenisedReviews.from_padded(exercises.preprocess_dataset(rows, tokenizer)).flat
            enable_progress_bars()
            folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{split}.{os.getpid()}.part")
            save_file(flat, beside)
            os.replace(beside, path)
        tokenised[split] = TokenisedReviews(load_file(path))
    return tokenised, facts


def code_fingerprint(*modules: ModuleType) -> str:
    """Hash what the modules do: their syntax trees without docstrings, so that comments and layout change nothing."""
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def cell_trainer(
    settings: Settings, reviews: dict[str, TokenisedReviews], policy: str, learning_rate: float, batch_size: int
) -> Trainer:
    """Build a fresh Trainer for one cell from the student's `init_trainer`.

    The student's model, metric and arguments stay; the course adds batches of similar length, the cell's two
    hyperparameters, the seed and silence. The policies that the assignment does not ask for are
    applied to the student's full model.
    """
    base = exercises.init_trainer(
        settings.model, reviews["train"], reviews["validation"], use_bitfit=policy == "bitfit"
    )
    if base.model_init is None:
        raise CourseError("init_trainer must give the Trainer a model_init, not a model: see Problem 2b.")

    def init_model(trial: Any = None) -> torch.nn.Module:
        model = base.call_model_init(trial)
        return skip_unused_states(model if policy in ("full", "bitfit") else apply_policy(model, policy))

    arguments = replace(
        base.args,
        output_dir=str(settings.folder / "trainer"),
        num_train_epochs=settings.epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        train_sampling_strategy="group_by_length",
        seed=settings.seed,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(
        model_init=init_model,
        args=arguments,
        data_collator=collate,
        train_dataset=reviews["train"],
        eval_dataset=reviews["validation"],
        compute_metrics=base.compute_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class EpochRecorder(TrainerCallback):
    """Collects a record an epoch: training loss, validation accuracy, seconds (training and validation together)."""

    def __init__(self, on_step: Callable[[], None]):
        self.epochs: list[dict[str, float]] = []
        self.on_step = on_step

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.on_step()

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        loss = next(entry["loss"] for entry in reversed(state.log_history) if "loss" in entry)
        self.epochs.append(
            {
                "epoch": len(self.epochs) + 1,
                "loss": loss,
                "validation_accuracy": metrics["eval_accuracy"],
                "seconds": round(time.perf_counter() - self.started, 2),
            }
        )


def train_cell(
    settings: Settings,
    reviews: dict[str, TokenisedReviews],
    policy: str,
    learning_rate: float,
    batch_size: int,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[Trainer, dict[str, Any]]:
    """Train one cell to its end; returns the Trainer with the trained model, and the cell's record.

    The record's validation accuracy is the last epoch's, as in `Trainer.hyperparameter_search`. `on_step` is called
    after every optimizer step and may raise to stop.
    """
    trainer = cell_trainer(settings, reviews, policy, learning_rate, batch_size)
    recorder = EpochRecorder(on_step)
    trainer.add_callback(recorder)
    started = time.perf_counter()
    trainer.train()
    if not recorder.epochs:
        raise CourseError("The Trainer never measured the validation accuracy: see eval_strategy in Problem 2b.")
    if not math.isfinite(recorder.epochs[-1]["loss"]):
        raise CourseError(f"The training loss of {policy}, {learning_rate:g}, {batch_size} is not a number.")
    return trainer, {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "epochs": recorder.epochs,
        "validation_accuracy": recorder.epochs[-1]["validation_accuracy"],
        "trainable_parameters": count_parameters(trainer.model),
        "seconds": round(time.perf_counter() - started, 2),
    }


def test_model(settings: Settings, directory: Path, test: TokenisedReviews) -> dict[str, Any]:
    """Test a saved model with the student's `init_tester`: accuracy, most confident mistakes, how far the biases moved.

    A mistake is named by its row in the test split. The movement of a bias tensor is the mean absolute difference
    from the model that fine-tuning started from.
    """
    student = exercises.init_tester(str(directory))
    arguments = replace(
        student.args,
        per_device_eval_batch_size=EVALUATION_BATCH,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    tester = Trainer(
        model=skip_unused_states(student.model),
        args=arguments,
        data_collator=collate,
        compute_metrics=student.compute_metrics,
    )
    ordered, rows = test.sorted_by_length()
    prediction = tester.predict(ordered)
    probabilities = torch.softmax(torch.from_numpy(prediction.predictions), dim=-1).numpy()
    predicted, labels = probabilities.argmax(-1), prediction.label_ids
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong].max(-1), kind="stable")]
    before = dict(load_classifier(settings.model).named_parameters())
    return {
        "accuracy": float((predicted == labels).mean()),
        "n": len(labels),
        "mistakes": [
            {
                "row": rows[index],
                "label": int(labels[index]),
                "predicted": int(predicted[index]),
                "probability": round(float(probabilities[index].max()), 4),
            }
            for index in wrong[:10]
        ],
        "bias_movement": {
            name: float((parameter.detach().cpu() - before[name].detach()).abs().mean())
            for name, parameter in student.model.named_parameters()
            if name.endswith(".bias") and name != "classifier.bias"
        },
    }
