"""One cell of the grid: a student's Trainer, made quick and repeatable, trained, recorded and tested."""

import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

from helpers import exercises
from helpers.data import fingerprint_reviews, load_reviews
from helpers.models import (
    apply_policy,
    count_parameters,
    fingerprint_model,
    load_classifier,
    load_tokenizer,
    quiet_library,
)
from helpers.results import fingerprint_code
from helpers.settings import CourseError, Settings, set_aside, short_name, write_atomically
from helpers.speed import has_fast_bf16, speed_up, split_batch

EVALUATION_BATCH = 128
CHUNK = 2000  # reviews that are held in memory with their padding


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
    key = [facts["fingerprint"], fingerprint_model(settings.model), fingerprint_code(Path(exercises.__file__))]
    folder = settings.folder / f"tokens-{hashlib.sha256(''.join(key).encode()).hexdigest()[:16]}"
    tokenised = {}
    for split, rows in reviews.items():
        path = folder / f"{split}.safetensors"
        if not path.exists():
            disable_progress_bars()
            chunks = (rows.select(range(at, min(at + CHUNK, len(rows)))) for at in range(0, len(rows), CHUNK))
            parts = [
                TokenisedReviews.from_padded(exercises.preprocess_dataset(chunk, tokenizer)).flat for chunk in chunks
            ]
            flat = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            enable_progress_bars()
            folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{split}.{os.getpid()}.part")
            save_file(flat, beside)
            os.replace(beside, path)
        tokenised[split] = TokenisedReviews(load_file(path))
    return tokenised, facts


@functools.cache
def choose_precision(precision: str) -> str:
    """Make `auto` bf16 where this machine is quick at it, else fp32."""
    return ("bf16" if has_fast_bf16() else "fp32") if precision == "auto" else precision


def cell_trainer(
    settings: Settings,
    reviews: dict[str, TokenisedReviews],
    policy: str,
    learning_rate: float,
    batch_size: int,
    folder: Path | None = None,
) -> "PartsTrainer":
    """Build a fresh Trainer for one cell from the student's `init_trainer`.

    The student's model, metric and arguments stay; the course adds the cell's two hyperparameters, the seed, the
    precision and silence, and with a `folder` a checkpoint an epoch. The policies that the assignment does not ask for
    are applied to the student's full model.
    """
    base = exercises.init_trainer(
        settings.model, reviews["train"], reviews["validation"], use_bitfit=policy == "bitfit"
    )
    if base.model_init is None:
        raise CourseError("init_trainer must give the Trainer a model_init, not a model: see Problem 2b.")

    def init_model(trial: Any = None) -> torch.nn.Module:
        model = base.call_model_init(trial)
        return speed_up(model if policy in ("full", "bitfit") else apply_policy(model, policy))

    bf16 = choose_precision(settings.precision) == "bf16"
    arguments = replace(
        base.args,
        output_dir=str(folder or settings.folder / "trainer"),
        num_train_epochs=settings.epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        seed=settings.seed,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="epoch" if folder else "no",
        save_total_limit=2,
        bf16=bf16,
        use_cpu=base.args.use_cpu or (bf16 and not torch.cuda.is_available()),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = PartsTrainer(
        model_init=init_model,
        args=arguments,
        data_collator=collate,
        train_dataset=reviews["train"],
        eval_dataset=reviews["validation"],
        compute_metrics=base.compute_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class PartsTrainer(Trainer):
    """A Trainer that computes a batch in parts (see `split_batch`); the optimizer's step is the whole batch's."""

    tokens_seen = 0

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.tokens_seen += int(inputs["attention_mask"].sum())
        if torch.cuda.is_available():
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        for part in split_batch(inputs):
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, part) * (len(part["labels"]) / len(inputs["labels"]))
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if torch.cuda.is_available():
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        parts = list(split_batch(inputs))
        step = super().prediction_step
        losses, logits, labels = zip(
            *(step(model, part, prediction_loss_only, ignore_keys) for part in parts), strict=True
        )
        mean = sum(loss * len(part["labels"]) for loss, part in zip(losses, parts, strict=True)) / len(inputs["labels"])
        return mean, torch.cat(logits), torch.cat(labels)


class EpochRecorder(TrainerCallback):
    """Tells every step and epoch, notes an epoch's seconds, seals its checkpoint, and stops after `until` epochs."""

    def __init__(self, until: int, on_step: Callable[[], None], on_epoch: Callable[[dict[str, Any]], None]):
        self.until = until
        self.on_step = on_step
        self.on_epoch = on_epoch

    def on_train_begin(self, args, state, control, **kwargs):
        for epoch in epochs_of(state.log_history):
            self.on_epoch(epoch)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.on_step()

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save &= round(state.epoch) < args.num_train_epochs  # The last epoch's model is saved elsewhere.

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        state.log_history[-1]["seconds"] = round(time.perf_counter() - self.started, 2)
        epochs = epochs_of(state.log_history)
        self.on_epoch(epochs[-1])
        control.should_training_stop |= len(epochs) >= self.until

    def on_save(self, args, state, control, **kwargs):
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def epochs_of(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The record of each epoch: mean training loss, validation accuracy, seconds (training and validation together)."""
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    measured = [entry for entry in log_history if "eval_accuracy" in entry]
    return [
        {"epoch": number, "loss": loss, "validation_accuracy": entry["eval_accuracy"], "seconds": entry["seconds"]}
        for number, (loss, entry) in enumerate(zip(losses, measured, strict=False), 1)
    ]


def seal(folder: Path) -> None:
    """Write down what the files of a finished checkpoint hold, so that a damaged one is known as such."""
    write_atomically(folder / "seal.json", json.dumps(_digests(folder)))


def is_sealed(folder: Path) -> bool:
    """Whether a checkpoint is there, finished, and as it was written."""
    try:
        return json.loads((folder / "seal.json").read_text()) == _digests(folder)
    except (OSError, ValueError):
        return False


def newest_checkpoint(folder: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest whole checkpoint of an interrupted cell, if there is one.

    One that was not written to its end is removed, a damaged one moved beside the folder.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in found:
        if is_sealed(checkpoint):
            return checkpoint
        if not (checkpoint / "seal.json").exists():
            shutil.rmtree(checkpoint)
            continue
        aside = set_aside(checkpoint, folder.with_name(f"{folder.name}-{checkpoint.name}"))
        say(f"The checkpoint {checkpoint} is damaged; it is now {aside.name}, and its epoch is trained again.")
    return None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != "seal.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def train_cell(
    settings: Settings,
    reviews: dict[str, TokenisedReviews],
    policy: str,
    learning_rate: float,
    batch_size: int,
    folder: Path | None = None,
    until: int | None = None,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda epoch: None,
) -> tuple[Trainer, dict[str, Any]]:
    """Train one cell to its end, or `until` an epoch; returns the Trainer with the model in it, and the cell's record.

    The record's validation accuracy is the last epoch's, as in `Trainer.hyperparameter_search`. With a `folder`,
    every epoch leaves a checkpoint there, and training goes on from the newest one, to the same result bit for bit.
    `on_step` is called after every optimizer step and may raise to stop; `on_epoch` gets each epoch's record.
    """
    until = until or settings.epochs
    trainer = cell_trainer(settings, reviews, policy, learning_rate, batch_size, folder)
    trainer.add_callback(EpochRecorder(until, on_step, on_epoch))
    checkpoint = newest_checkpoint(folder) if folder else None
    history = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["log_history"] if checkpoint else []
    if len(epochs_of(history)) < until:
        with quiet_library():
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        history = trainer.state.log_history
    epochs = epochs_of(history)
    if not epochs:
        raise CourseError("The Trainer never measured the validation accuracy: see eval_strategy in Problem 2b.")
    if not math.isfinite(epochs[-1]["loss"]):
        raise CourseError(f"The training loss of {policy}, {learning_rate:g}, {batch_size} is not a number.")
    return trainer, {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "epochs": epochs,
        "validation_accuracy": epochs[-1]["validation_accuracy"],
        "trainable_parameters": count_parameters(trainer.model),
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 2),
    }


def measure_speed(
    settings: Settings, reviews: dict[str, TokenisedReviews], policy: str, batch_size: int, seconds: float = 2.0
) -> float:
    """Train up to 20 steps, for about `seconds` at most; returns tokens a second in this process."""
    trainer = cell_trainer(settings, reviews, policy, settings.learning_rates[0], batch_size)
    trainer.args.eval_strategy = IntervalStrategy.NO
    watch = StopWatch(trainer, seconds)
    trainer.add_callback(watch)
    trainer.train()
    return watch.tokens / watch.elapsed


class StopWatch(TrainerCallback):
    """Stops the training after 20 steps or some seconds; the first step, which warms up, does not count."""

    def __init__(self, trainer: PartsTrainer, seconds: float):
        self.trainer, self.seconds = trainer, seconds

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.started, self.before = time.perf_counter(), self.trainer.tokens_seen
        else:
            self.elapsed = time.perf_counter() - self.started
            self.tokens = self.trainer.tokens_seen - self.before
            control.should_training_stop = state.global_step > 20 or self.elapsed > self.seconds


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
    tester = PartsTrainer(
        model=speed_up(student.model),
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
