"""One run: a student's Trainer, made fast and reproducible, trained, recorded and tested."""

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from helpers import exercises, recipe
from helpers.checkpoints import newest_checkpoint, seal
from helpers.models import apply_policy, count_parameters, load_classifier, load_tokenizer, quiet_library
from helpers.prepare import Reviews, choose_precision, cut, find_rows, make_start
from helpers.settings import CourseError, Run, Settings
from helpers.speed import expand_vocabulary, shrink_vocabulary, speed_up, split_batch

EVALUATION_BATCH = 128
INPUTS = ("input_ids", "token_type_ids")
NO_ACCURACY = "The Trainer's compute_metrics gave no accuracy: see Problem 2b."
MEASURED_ON = 1000  # most training reviews on which the accuracy of an `at_end` run is measured


def build_trainer(
    settings: Settings, run: Run, reviews: Reviews, start: str, folder: Path | None = None, whole_table: bool = False
) -> "PartsTrainer":
    """Build a fresh Trainer for a run from the student's `init_trainer`.

    The model, the metric and the arguments in `recipe.take_checked` are the student's; everything else is the course's
    own, and `init_trainer` gets only a few made-up reviews. `reviews` must already have the run's size, and `start` is
    the initial model. Policies that the assignment does not ask for are applied to the student's full model.
    `whole_table` keeps all word embeddings, even those of tokens that occur in no review.
    """
    # As check 2b's: what `preprocess_dataset` returns may lack the text, or be a view.
    tokens = load_tokenizer(start)(["A film."] * 16, padding="max_length")
    few = Dataset.from_dict({"text": ["A film."] * 16, "label": [0, 1] * 8} | dict(tokens))
    base = exercises.init_trainer(start, few, few.select(range(8)), use_bitfit=run.policy == "bitfit")
    recipe.require("init_trainer", base, Trainer)
    if base.model_init is None:
        raise CourseError("init_trainer must give the Trainer a model_init, not a model: see Problem 2b.")
    rows = find_rows(reviews)

    def init_model(trial: Any = None) -> torch.nn.Module:
        model = base.call_model_init(trial)
        model = speed_up(model if run.policy in ("full", "bitfit") else apply_policy(model, run.policy))
        return model if whole_table or base.args.weight_decay else shrink_vocabulary(model, rows)

    own = {
        "output_dir": str(folder or settings.folder / "trainer"),
        "num_train_epochs": run.epochs,
        "max_steps": round(len(reviews["train"]) * run.epochs / run.batch_size) if run.at_end else -1,
        "learning_rate": run.learning_rate,
        "per_device_train_batch_size": run.batch_size,
        "per_device_eval_batch_size": EVALUATION_BATCH,
        "seed": run.seed,
        "eval_strategy": "no" if run.at_end else "epoch",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,
        "save_strategy": "no" if folder is None else "epoch",
        "save_total_limit": 2,
        "bf16": choose_precision(settings.precision) == "bf16",
        "use_cpu": not torch.cuda.is_available(),  # Apple's GPU is not used.
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = PartsTrainer(
        model_init=init_model,
        args=make_arguments(**recipe.take_checked(base.args) | own),
        data_collator=collate,
        train_dataset=reviews["train"],
        eval_dataset=reviews["validation"],
        compute_metrics=base.compute_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def collate(reviews: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad reviews to the longest one: each input is (reviews, tokens). The library's collator needs 4 % of a step."""
    rows = [{name: torch.tensor(value) for name, value in review.items()} for review in reviews]
    batch = {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in INPUTS}
    mask = pad_sequence([torch.ones_like(row["input_ids"]) for row in rows], batch_first=True)
    return batch | {"attention_mask": mask, "labels": torch.stack([row["label"] for row in rows])}


def make_arguments(**options: Any) -> TrainingArguments:
    """TrainingArguments for one device, with the precision that `bf16` says.

    The library would use every GPU that it sees, which multiplies the batch size, and would take the precision from the
    environment (ACCELERATE_MIXED_PRECISION).
    """
    arguments = TrainingArguments(**options)
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class PartsTrainer(Trainer):
    """A Trainer that computes a batch in micro-batches (see `split_batch`), with one optimizer step per batch."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        if torch.cuda.is_available():
            return super().training_step(model, inputs, num_items_in_batch)
        if not model.training:  # Visiting all modules at every step takes time.
            model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        for _, part in split_batch(inputs):
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, part) * (len(part["labels"]) / len(inputs["labels"]))
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if torch.cuda.is_available():
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rows, parts = zip(*split_batch(inputs), strict=True)
        step = super().prediction_step
        found = [step(model, part, prediction_loss_only, ignore_keys) for part in parts]
        losses, logits, labels = zip(*found, strict=True)
        mean = sum(loss * len(part) for loss, part in zip(losses, rows, strict=True)) / len(inputs["labels"])
        order = torch.cat(rows).argsort()  # Back in the batch's order.
        return mean, torch.cat(logits)[order], torch.cat(labels)[order]

    def floating_point_ops(self, inputs):
        """Skip counting them, which would visit all modules at every step: nobody reads them."""
        return 0


class Recorder(TrainerCallback):
    """Reports a run's progress, records an epoch's seconds, seals its checkpoint, and stops after `until` epochs.

    A run of more than four epochs saves a checkpoint only after each quarter of them.
    """

    def __init__(self, run: Run, until: float, tell: Callable[[float, list[dict[str, Any]]], None]):
        self.run, self.until, self.tell = run, until, tell

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.tell(state.epoch, read_history(state.log_history))

    def on_epoch_end(self, args, state, control, **kwargs):
        whole = round(state.epoch) % math.ceil(self.run.epochs / 4) == 0
        control.should_save &= whole and state.global_step < state.max_steps

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["seconds"] = round(time.perf_counter() - self.started, 2)

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop |= len(read_history(state.log_history)) >= self.until

    def on_save(self, args, state, control, **kwargs):
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def read_history(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The record of each measured epoch: mean training loss, validation accuracy, seconds (for both together)."""
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    measured = [entry for entry in log_history if "eval_accuracy" in entry]
    return [
        {"epoch": number, "loss": loss, "validation_accuracy": entry["eval_accuracy"], "seconds": entry["seconds"]}
        for number, (loss, entry) in enumerate(zip(losses, measured, strict=False), 1)
    ]


@quiet_library()
def train_run(
    settings: Settings,
    run: Run,
    reviews: Reviews,
    folder: Path | None = None,
    until: float | None = None,
    tell: Callable[[float, list[dict[str, Any]]], None] = lambda epoch, history: None,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Train a run to its end, or `until` an epoch; returns the model and the run's record (see `results`).

    The record's validation accuracy is the last epoch's, as in `Trainer.hyperparameter_search`. With a `folder`, every
    epoch saves a checkpoint there, and training resumes from the newest one, with bit-for-bit the same result. `tell`
    is called after every step with the epochs done and the history so far; it may raise an error to stop the training.
    """
    until = until or run.epochs
    reviews = {
        "train": cut(reviews["train"], run.reviews, run.tokens),
        "validation": cut(reviews["validation"], run.validation, run.tokens),
    }
    with make_start(settings, run, folder) as start:
        trainer = build_trainer(settings, run, reviews, start, folder)
        trainer.add_callback(Recorder(run, until, tell))
        checkpoint = newest_checkpoint(folder) if folder else None
        log = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["log_history"] if checkpoint else []
        if run.at_end or len(read_history(log)) < until:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            log = trainer.state.log_history
        record = measure_end(trainer, log) if run.at_end else {"history": read_history(log)}
        history = record["history"]
        if not history:
            raise CourseError(NO_ACCURACY)
        if not math.isfinite(history[-1]["loss"]):
            name = f"{run.policy}, {run.learning_rate:g}, batch {run.batch_size}, seed {run.seed}"
            raise CourseError(f"The training loss of {name} is not a number. Try a smaller learning rate.")
        model = expand_vocabulary(trainer.model)
        if run.at_end:
            record["bias_movement"] = measure_movement(model, start)
    record["validation_accuracy"] = history[-1]["validation_accuracy"]
    record["seconds"] = round(sum(epoch["seconds"] for epoch in history), 2)
    return model, asdict(run) | {"trainable_parameters": count_parameters(model)} | record


def measure_end(trainer: Trainer, log: list[dict[str, Any]]) -> dict[str, Any]:
    """Evaluate a trained model once, on the validation reviews and on reviews that it was trained on."""
    started = time.perf_counter()
    seen = trainer.train_dataset.select(range(min(MEASURED_ON, len(trainer.train_dataset))))
    try:
        validation, train = (trainer.evaluate(rows)["eval_accuracy"] for rows in (None, seen))
    except KeyError:
        raise CourseError(NO_ACCURACY) from None
    logged = [entry for entry in log if "loss" in entry]
    steps = np.diff([0, *(entry["step"] for entry in logged)])
    loss = float(np.average([entry["loss"] for entry in logged], weights=steps))
    seconds = round(sum(entry["seconds"] for entry in logged) + time.perf_counter() - started, 2)
    epoch = {"epoch": trainer.args.num_train_epochs, "loss": loss, "validation_accuracy": validation}
    return {
        "history": [epoch | {"seconds": seconds}],
        "train_accuracy": train,
        "steps": trainer.state.global_step,
        "measured_on": {"validation": len(trainer.eval_dataset), "train": len(seen)},
    }


def measure_movement(model: torch.nn.Module, start: str) -> dict[str, float]:
    """The mean absolute change of each bias tensor of the encoder since the start of fine-tuning."""
    before = dict(load_classifier(start).named_parameters())
    return {
        name: float((parameter.detach().cpu() - before[name].detach()).abs().mean())
        for name, parameter in model.named_parameters()
        if name.endswith(".bias") and name != "classifier.bias"
    }


@quiet_library()
def test_model(settings: Settings, directory: Path, test: Dataset) -> dict[str, Any]:
    """Test a saved model with the student's `init_tester`: accuracy, most confident mistakes, how far the biases moved.

    A mistake is identified by its row in the test split.
    """
    student = exercises.init_tester(str(directory))
    recipe.require("init_tester", student, Trainer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = make_arguments(
            output_dir=folder,
            per_device_eval_batch_size=EVALUATION_BATCH,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        tester = PartsTrainer(model=speed_up(student.model), args=arguments, data_collator=collate)
        tester.remove_callback(PrinterCallback)
        prediction = tester.predict(test)
    probabilities = torch.softmax(torch.from_numpy(prediction.predictions), dim=-1).double().numpy()
    labels, predicted = prediction.label_ids, probabilities.argmax(-1)
    table = pd.DataFrame({"label": labels, "predicted": predicted, "probability": probabilities.max(-1)})
    wrong = table[labels != predicted].sort_values("probability", ascending=False, kind="stable")[:10]
    return {
        "accuracy": float((predicted == labels).mean()),
        "n": len(labels),
        "mistakes": wrong.round(4).rename_axis("row").reset_index().to_dict("records"),
        "bias_movement": measure_movement(student.model, settings.model),
    }
