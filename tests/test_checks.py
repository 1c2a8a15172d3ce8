"""Every check passes the right solution and none of the wrong ones."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

from helpers import exercises
from helpers.checks import FUNCTIONS, CheckFailed, judge, problem_1d, problem_2a, problem_2b, problem_2c
from helpers.expect import expect, give_public
from helpers.models import load_classifier
from helpers.observe import observe

RIGHT = {
    "1d": (exercises.preprocess_dataset,),
    "2a": (exercises.init_model,),
    "2b": (exercises.init_trainer, exercises.init_tester),
    "2c": (exercises.hyperparameter_search_settings,),
}
CHECKS = {"1d": problem_1d, "2a": problem_2a, "2b": problem_2b, "2c": problem_2c}
SAID = {
    "1d": "Every review is 512 ids, segments and mask values, and keeps its label.",
    "2a": "bitfit trains 3,074 of 4,386,178 parameters, all of them biases.",
    "2b": "The Trainer measures the accuracy after each of 4 epochs, and the tester has the saved model.",
    "2c": "The search tries each of the 20 cells once, prunes none, and prefers the most accurate.",
}


def unsolved(*arguments: Any, **options: Any) -> None:
    raise NotImplementedError


def returns_nothing(*arguments: Any, **options: Any) -> None:
    pass


def preprocess(change: Callable = lambda data: data, **options: Any) -> Callable:
    """Solve Problem 1d with other options of the tokenizer, or change what comes out."""
    options = {"padding": "max_length", "truncation": True, "max_length": 512} | options

    def preprocess_dataset(dataset, tokenizer):
        return change(dataset.map(lambda batch: tokenizer(batch["text"], **options), batched=True))

    return preprocess_dataset


def first_half_of_the_text(dataset, tokenizer):
    return exercises.preprocess_dataset(dataset.map(lambda row: {"text": row["text"][:128]}), tokenizer)


def model_with(trains: Callable[[str, torch.nn.Parameter], bool], full: Callable[[str], bool] = lambda name: True):
    """Solve Problem 2a with other parameters trained, under BitFit or in full."""

    def init_model(trial, model_name, use_bitfit=False):
        model = load_classifier(model_name)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = trains(name, parameter) if use_bitfit else full(name)
        return model

    return init_model


def is_bias(name: str, parameter: torch.nn.Parameter | None = None) -> bool:
    return name.endswith(".bias")


def random_encoder(trial, model_name, use_bitfit=False):
    model = BertForSequenceClassification(load_classifier(model_name).config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not use_bitfit or is_bias(name)
    return model


def kept_model() -> Callable:
    models: dict[str, torch.nn.Module] = {}

    def init_model(trial, model_name, use_bitfit=False):
        model = models.setdefault(model_name, load_classifier(model_name))
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not use_bitfit or is_bias(name)
        return model

    return init_model


def straight_from_the_library(trial, model_name, use_bitfit=False):
    model = BertForSequenceClassification.from_pretrained(model_name, num_labels=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not use_bitfit or is_bias(name)
    return model


def encoder_only(trial, model_name, use_bitfit=False):
    return BertModel.from_pretrained(model_name)


def half_precision(trial, model_name, use_bitfit=False):
    return exercises.init_model(trial, model_name, use_bitfit).half()


def three_labels(trial, model_name, use_bitfit=False):
    model = BertForSequenceClassification.from_pretrained(model_name, num_labels=3)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not use_bitfit or is_bias(name)
    return model


def trainer_with(
    init_model: Callable = exercises.init_model,
    metrics: Callable | None = exercises.compute_metrics,
    change: Callable[[Trainer], Any] = lambda trainer: None,
    **options: Any,
) -> Callable:
    """Solve the first half of Problem 2b with another model, metric or argument, or change the Trainer."""
    options = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no"} | options

    def init_trainer(model_name, train_data, val_data, use_bitfit=False):
        trainer = Trainer(
            model_init=lambda: init_model(None, model_name, use_bitfit),
            args=TrainingArguments(output_dir="checkpoints", report_to="none", **options),
            train_dataset=train_data,
            eval_dataset=val_data,
            compute_metrics=metrics,
        )
        change(trainer)
        return trainer

    return init_trainer


def trainer_of_one_model(model_name, train_data, val_data, use_bitfit=False):
    return Trainer(
        model=exercises.init_model(None, model_name, use_bitfit),
        args=TrainingArguments(output_dir="checkpoints", num_train_epochs=4, eval_strategy="epoch", report_to="none"),
        train_dataset=train_data,
        eval_dataset=val_data,
        compute_metrics=exercises.compute_metrics,
    )


def swap(trainer: Trainer) -> None:
    trainer.train_dataset, trainer.eval_dataset = trainer.eval_dataset, trainer.train_dataset


def metric(name: str, value: Callable[[np.ndarray, np.ndarray], float]) -> Callable:
    return lambda predictions: {name: float(value(predictions.predictions.argmax(-1), predictions.label_ids))}


def right_share(predicted: np.ndarray, labels: np.ndarray) -> float:
    return (predicted == labels).mean()


def precision(predicted: np.ndarray, labels: np.ndarray) -> float:
    return (predicted * labels).sum() / max(predicted.sum(), 1)


def make_tester(make: Callable[[str], dict[str, Any]], metrics: Callable | None = exercises.compute_metrics, **options):
    """Solve the second half of Problem 2b with another model, metric or argument."""

    def init_tester(directory):
        arguments = TrainingArguments(output_dir="checkpoints", report_to="none", **options)
        return Trainer(args=arguments, compute_metrics=metrics, **make(directory))

    return init_tester


def saved(directory: str) -> dict[str, Any]:
    return {"model": load_classifier(directory)}


def fresh_head(directory: str) -> dict[str, Any]:
    model = load_classifier(directory)
    torch.nn.init.normal_(model.classifier.weight)
    return {"model": model}


def trained_a_little(directory: str) -> dict[str, Any]:
    model = load_classifier(directory)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[2000, 0] += 1e-4
    return {"model": model}


def random_model(directory: str) -> dict[str, Any]:
    return {"model": BertForSequenceClassification(BertConfig.from_pretrained(directory))}


RATES, SIZES = [3e-4, 1e-4, 5e-5, 3e-5], [8, 16, 32, 64, 128]


def search_with(rates: list = RATES, sizes: list = SIZES, drop: str = "", **options: Any) -> Callable:
    """Solve Problem 2c with another grid, without one of the keys, or with other values of them."""

    def hyperparameter_search_settings():
        grid = {"learning_rate": rates, "per_device_train_batch_size": sizes}
        search = {
            "direction": "maximize",
            "backend": "optuna",
            "n_trials": 20,
            "hp_space": lambda trial: {name: trial.suggest_categorical(name, values) for name, values in grid.items()},
            "compute_objective": lambda metrics: metrics["eval_accuracy"],
            "sampler": optuna.samplers.GridSampler(grid),
            "pruner": optuna.pruners.NopPruner(),
        }
        return {name: value for name, value in (search | options).items() if name != drop}

    return hyperparameter_search_settings


def continuous_space(trial):
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-4, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", SIZES),
    }


def space_with_other_names(trial):
    return {"lr": trial.suggest_categorical("learning_rate", RATES)} | size_space(trial)


def size_space(trial):
    return {"per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", SIZES)}


def space_with_epochs(trial):
    rate = {"learning_rate": trial.suggest_categorical("learning_rate", RATES)}
    return rate | size_space(trial) | {"num_train_epochs": 2}


def space_that_forgets_to_return(trial):
    size_space(trial)


# name: (problem, solutions, part of the message)
WRONG: dict[str, tuple[str, tuple[Callable, ...], str]] = {
    "1d unsolved": ("1d", (unsolved,), "unsolved is not written yet."),
    "1d returns nothing": ("1d", (returns_nothing,), "expected Dataset, found NoneType"),
    "1d returns a dict": (
        "1d",
        (lambda data, tokenizer: dict(tokenizer(data["text"][:])),),
        "expected Dataset, found dict",
    ),
    "1d untouched": ("1d", (lambda data, tokenizer: data,), "column input_ids: expected there, found missing"),
    "1d padded to the longest": ("1d", (preprocess(padding=True),), "length: expected 512, found"),
    "1d padded to the longest alone": ("1d", (preprocess(padding="longest"),), "length: expected 512, found"),
    "1d not padded": ("1d", (preprocess(padding=False),), "length: expected 512, found 8"),
    "1d not truncated": ("1d", (preprocess(truncation=False),), "input_ids of review 3"),
    "1d 128 ids": ("1d", (preprocess(max_length=128),), "length: expected 512, found 128"),
    "1d 513 ids": ("1d", (preprocess(max_length=513),), "length: expected 512, found 513"),
    "1d text cut": ("1d", (first_half_of_the_text,), "input_ids of review 3"),
    "1d padded on the left": (
        "1d",
        (lambda data, tokenizer: preprocess(padding_side="left")(data, tokenizer),),
        "position 0: expected 101, found 0",
    ),
    "1d no special tokens": ("1d", (preprocess(add_special_tokens=False),), "position 0: expected 101"),
    "1d no mask": ("1d", (preprocess(return_attention_mask=False),), "column attention_mask: expected there"),
    "1d no segments": ("1d", (preprocess(return_token_type_ids=False),), "column token_type_ids: expected there"),
    "1d mask of ones": (
        "1d",
        (preprocess(lambda data: data.map(lambda row: {"attention_mask": [1] * 512})),),
        "attention_mask of review 0",
    ),
    "1d segments of ones": (
        "1d",
        (preprocess(lambda data: data.map(lambda row: {"token_type_ids": [1] * 512})),),
        "token_type_ids of review 0",
    ),
    "1d label dropped": (
        "1d",
        (preprocess(lambda data: data.remove_columns("label")),),
        "column label: expected there",
    ),
    "1d label renamed": (
        "1d",
        (preprocess(lambda data: data.rename_column("label", "labels")),),
        "column label: expected there",
    ),
    "1d label changed": (
        "1d",
        (preprocess(lambda data: data.map(lambda row: {"label": 1 - row["label"]})),),
        "label of review 0",
    ),
    "1d rows dropped": (
        "1d",
        (preprocess(lambda data: data.select(range(2))),),
        "number of reviews: expected 3, found 2",
    ),
    "1d rows shuffled": ("1d", (preprocess(lambda data: data.shuffle(seed=1)),), "of review"),
    "1d too few arguments": ("1d", (lambda data: data,), "it stopped with TypeError"),
    "2a unsolved": ("2a", (unsolved,), "unsolved is not written yet."),
    "2a returns nothing": ("2a", (returns_nothing,), "expected BertForSequenceClassification, found NoneType"),
    "2a encoder only": ("2a", (encoder_only,), "expected BertForSequenceClassification, found BertModel"),
    "2a nothing frozen": ("2a", (model_with(lambda name, p: True),), "expected frozen, found trained"),
    "2a everything frozen": ("2a", (model_with(lambda name, p: False),), ".bias (128 numbers): expected trained"),
    "2a bias anywhere in the name": (
        "2a",
        (model_with(lambda name, p: "bias" in name),),
        "relative_attention_bias.weight (8 numbers): expected frozen",
    ),
    "2a biases frozen": ("2a", (model_with(lambda name, p: not is_bias(name)),), "expected frozen, found trained"),
    "2a one-dimensional": ("2a", (model_with(lambda name, p: p.ndim == 1),), "LayerNorm.weight (128 numbers)"),
    "2a classifier weight trained": (
        "2a",
        (model_with(lambda name, p: is_bias(name) or name.startswith("classifier")),),
        "classifier.weight (256 numbers): expected frozen, found trained",
    ),
    "2a classifier bias frozen": (
        "2a",
        (model_with(lambda name, p: is_bias(name) and not name.startswith("classifier")),),
        "classifier.bias (2 numbers): expected trained, found frozen",
    ),
    "2a pooler bias frozen": (
        "2a",
        (model_with(lambda name, p: is_bias(name) and "pooler" not in name),),
        "pooler.dense.bias (128 numbers): expected trained",
    ),
    "2a LayerNorm biases frozen": (
        "2a",
        (model_with(lambda name, p: is_bias(name) and "LayerNorm" not in name),),
        "LayerNorm.bias (128 numbers): expected trained",
    ),
    "2a full freezes everything": ("2a", (model_with(is_bias, lambda name: False),), "use_bitfit=False, parameter"),
    "2a full freezes the embeddings": (
        "2a",
        (model_with(is_bias, lambda name: "embeddings" not in name),),
        "word_embeddings.weight (3,906,816 numbers): expected trained, found frozen",
    ),
    "2a always BitFit": ("2a", (model_with(is_bias, is_bias),), "use_bitfit=False, parameter"),
    "2a random encoder": ("2a", (random_encoder,), "expected the saved values of bert."),
    "2a the same model again": ("2a", (kept_model(),), "expected the saved values of bert."),
    "2a half precision": ("2a", (half_precision,), "expected torch.float32, found torch.float16"),
    "2a three labels": ("2a", (three_labels,), "number of labels: expected 2, found 3"),
    "2a other argument names": ("2a", (lambda trial, name, bitfit=False: load_classifier(name),), "use_bitfit"),
    "2b unsolved": ("2b", (unsolved, unsolved), "unsolved is not written yet."),
    "2b tester unsolved": ("2b", (exercises.init_trainer, unsolved), "unsolved is not written yet."),
    "2b 2a unsolved": ("2b", (trainer_with(unsolved), exercises.init_tester), "unsolved is not written yet."),
    "2b returns nothing": ("2b", (returns_nothing, exercises.init_tester), "expected Trainer, found NoneType"),
    "2b tester returns nothing": ("2b", (exercises.init_trainer, returns_nothing), "expected Trainer, found NoneType"),
}
WRONG |= {
    f"2b {name}": ("2b", (solution, exercises.init_tester), message)
    for name, solution, message in (
        ("model instead of model_init", trainer_of_one_model, "model_init: expected there, found missing"),
        ("3 epochs", trainer_with(num_train_epochs=3), "num_train_epochs: expected 4, found 3"),
        ("never measured", trainer_with(eval_strategy="no"), "eval_strategy: expected epoch, found no"),
        ("measured by steps", trainer_with(eval_strategy="steps", eval_steps=5), "expected epoch, found steps"),
        ("measured late", trainer_with(eval_delay=3), "eval_delay: expected 0, found 3"),
        ("few steps", trainer_with(max_steps=2), "max_steps: expected -1, found 2"),
        ("weight decay", trainer_with(weight_decay=0.01), "weight_decay: expected 0.0, found 0.01"),
        ("warm-up", trainer_with(warmup_steps=0.1), "warmup_steps: expected 0, found 0.1"),
        ("cosine", trainer_with(lr_scheduler_type="cosine"), "lr_scheduler_type: expected linear, found cosine"),
        ("SGD", trainer_with(optim="sgd"), "optim: expected adamw_torch, found sgd"),
        ("accumulation", trainer_with(gradient_accumulation_steps=2), "gradient_accumulation_steps: expected 1"),
        ("label smoothing", trainer_with(label_smoothing_factor=0.1), "label_smoothing_factor: expected 0.0"),
        ("no metric", trainer_with(metrics=None), "found only eval_loss"),
        ("another key", trainer_with(metrics=metric("acc", right_share)), "found only eval_acc, eval_loss"),
        ("precision", trainer_with(metrics=metric("accuracy", precision)), "always predicts 0"),
        ("error rate", trainer_with(metrics=metric("accuracy", lambda p, y: (p != y).mean())), "always predicts 0"),
        ("per cent", trainer_with(metrics=metric("accuracy", lambda p, y: 100 * right_share(p, y))), "found 37.5"),
        ("a count", trainer_with(metrics=metric("accuracy", lambda p, y: (p == y).sum())), "found 3.0"),
        ("use_bitfit ignored", trainer_with(lambda trial, name, bitfit: load_classifier(name)), "expected frozen"),
        ("one model for all", trainer_with(kept_model()), "expected the saved values of bert."),
        ("data swapped", trainer_with(change=swap), "train_dataset: expected 16, found 8"),
        (
            "measured on the training data",
            trainer_with(change=lambda trainer: setattr(trainer, "eval_dataset", trainer.train_dataset)),
            "eval_dataset: expected 8, found 16",
        ),
        (
            "part of the data",
            trainer_with(change=lambda trainer: setattr(trainer, "train_dataset", trainer.train_dataset.select([1]))),
            "train_dataset: expected 16, found 1",
        ),
        (
            "other argument names",
            lambda name, train, val, bitfit=False: exercises.init_trainer(name, train, val, bitfit),
            "use_bitfit",
        ),
        (
            "stopped early",
            trainer_with(
                change=lambda trainer: trainer.add_callback(EarlyStoppingCallback(1)),
                load_best_model_at_end=True,
                save_strategy="epoch",
                metric_for_best_model="accuracy",
            ),
            "validation accuracy after epochs: expected [1, 2, 3, 4], found [1",
        ),
    )
}
WRONG |= {
    f"2b tester, {name}": ("2b", (exercises.init_trainer, solution), message)
    for name, solution, message in (
        ("model_init", make_tester(lambda folder: {"model_init": lambda: load_classifier(folder)}), "model_init"),
        ("training", make_tester(saved, do_train=True), "do_train: expected False, found True"),
        (
            "training data",
            make_tester(lambda folder: saved(folder) | {"train_dataset": Dataset.from_dict({"label": [1]})}),
            "training data: expected none",
        ),
        ("fresh classifier", make_tester(fresh_head), "expected the saved values of classifier.weight"),
        ("trained a little", make_tester(trained_a_little), "saved values of bert.embeddings.word_embeddings.weight"),
        ("random model", make_tester(random_model), "expected the saved values of bert."),
        ("no metric", make_tester(saved, metrics=None), "found only test_loss"),
        ("another key", make_tester(saved, metrics=metric("acc", right_share)), "found only test_acc, test_loss"),
    )
}
WRONG |= {
    f"2c {name}": ("2c", (solution,), message)
    for name, solution, message in (
        ("unsolved", unsolved, "unsolved is not written yet."),
        ("returns nothing", returns_nothing, "expected dict, found NoneType"),
        ("10 trials", search_with(n_trials=10), "cells that are never tried: expected []"),
        ("loss", search_with(compute_objective=lambda metrics: metrics["eval_loss"]), "compute_objective"),
        (
            "accuracy less loss",
            search_with(compute_objective=lambda metrics: round(metrics["eval_accuracy"] - metrics["eval_loss"])),
            "compute_objective",
        ),
        (
            "least loss",
            search_with(direction="minimize", compute_objective=lambda metrics: metrics["eval_loss"]),
            "compute_objective",
        ),
        ("another metric", search_with(compute_objective=lambda metrics: metrics["eval_f1"]), "KeyError: 'eval_f1'"),
        ("minimised", search_with(direction="minimize"), "direction minimize"),
        ("no direction", search_with(drop="direction"), "direction minimize"),
        ("no pruner", search_with(drop="pruner"), "pruner: expected NopPruner, found MedianPruner"),
        ("MedianPruner", search_with(pruner=optuna.pruners.MedianPruner()), "found MedianPruner"),
        ("Hyperband", search_with(pruner=optuna.pruners.HyperbandPruner()), "found HyperbandPruner"),
        ("no sampler", search_with(drop="sampler"), "found twice"),
        ("random sampler", search_with(sampler=optuna.samplers.RandomSampler(seed=1)), "found twice"),
        ("no space", search_with(drop="hp_space"), "key hp_space: expected there, found missing"),
        (
            "continuous",
            search_with(hp_space=continuous_space, sampler=optuna.samplers.RandomSampler()),
            "expected one of",
        ),
        ("sizes only", search_with(hp_space=size_space), "what hp_space returns"),
        ("other names", search_with(hp_space=space_with_other_names), "what hp_space returns"),
        ("epochs too", search_with(hp_space=space_with_epochs), "what hp_space returns"),
        ("space returns nothing", search_with(hp_space=space_that_forgets_to_return), "what hp_space returns"),
        ("Devlin's rates", search_with(rates=[5e-5, 3e-5, 2e-5]), "learning_rate: expected one of"),
        ("one rate forgotten", search_with(rates=RATES[1:]), "(0.0003, 8), (0.0003, 16)"),
        ("one size forgotten", search_with(sizes=SIZES[:-1]), "(0.0003, 128), (0.0001, 128)"),
        ("another size", search_with(sizes=[4, *SIZES[1:]]), "per_device_train_batch_size: expected one of"),
        ("a time limit", search_with(timeout=60), "other keys: expected [], found ['timeout']"),
        ("several threads", search_with(n_jobs=2), "found ['n_jobs']"),
        ("misspelt key", search_with(n_trails=20), "found ['n_trails']"),
        ("another backend", search_with(backend="grid"), "it stopped with ValueError"),
    )
}


@pytest.mark.parametrize("problem", CHECKS)
def test_the_right_solution_passes_in_one_line(bert_tiny: Path, capsys, problem: str) -> None:
    for _ in range(2):
        CHECKS[problem](*RIGHT[problem], model=bert_tiny)
        said = capsys.readouterr()
        assert said.out == f"Problem {problem}: correct. {SAID[problem]}\n" and said.err == ""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_solution_is_named(bert_tiny: Path, small_bert: Path, capsys, name: str) -> None:
    problem, solutions, message = WRONG[name]
    with pytest.raises(CheckFailed) as caught:
        CHECKS[problem](*solutions, model=small_bert if problem == "2b" else bert_tiny)
    said = str(caught.value)
    assert said.startswith(f"Problem {problem}: ") and message in said
    assert "\n" not in said and len(said) < 600
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert "correct" not in capsys.readouterr().out


OTHER_RIGHT = {
    "1d one at a time": (
        "1d",
        lambda data, tokenizer: data.map(lambda row: tokenizer(row["text"], padding="max_length", truncation=True)),
    ),
    "1d tensors without text": (
        "1d",
        preprocess(lambda data: data.remove_columns("text").with_format("torch")),
    ),
    "2a last part of the name": ("2a", model_with(lambda name, p: name.split(".")[-1] == "bias")),
    "2a straight from the library": (
        "2a",
        straight_from_the_library,
    ),
    "2b with tensors": ("2b", trainer_with(change=lambda trainer: trainer.train_dataset.set_format("torch"))),
    "2b keeps the best": ("2b", trainer_with(save_strategy="epoch", load_best_model_at_end=True, save_total_limit=1)),
    "2c the library's own objective": ("2c", search_with(drop="compute_objective")),
    "2c brute force": ("2c", lambda: search_with(sampler=optuna.samplers.BruteForceSampler())()),
    "2c more trials than cells": ("2c", search_with(n_trials=100)),
    "2c minimised error": (
        "2c",
        search_with(direction="minimize", compute_objective=lambda metrics: 1 - metrics["eval_accuracy"]),
    ),
    "2c with a name and a storage": (
        "2c",
        search_with(study_name="mine", storage="sqlite:///mine.db", load_if_exists=True, hp_name=lambda trial: "cell"),
    ),
}


@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
@pytest.mark.parametrize("name", OTHER_RIGHT)
def test_another_right_solution_passes(bert_tiny: Path, small_bert: Path, capsys, name: str) -> None:
    problem, solution = OTHER_RIGHT[name]
    CHECKS[problem](solution, *RIGHT[problem][1:], model=small_bert if problem == "2b" else bert_tiny)
    assert capsys.readouterr().out == f"Problem {problem}: correct. {SAID[problem]}\n"


class Called(BaseException):
    """Passes through every `except Exception` on its way."""


def copy_exercises(**replaced: Callable) -> ModuleType:
    """The solved exercises as a module of their own, some functions replaced."""
    module = ModuleType("exercises_copy")
    exec(compile(inspect.getsource(exercises), exercises.__file__, "exec"), vars(module))
    vars(module).update(replaced)
    return module


@pytest.mark.parametrize("problem", CHECKS)
def test_a_check_depends_on_no_other_problem_s_function(small_bert: Path, capsys, problem: str) -> None:
    """So a wrong function is caught by its own problem's check and by no other."""

    def must_not_be_called(*arguments, **options):
        raise Called

    others = [name for other, names in FUNCTIONS.items() if other != problem for name in names]
    module = copy_exercises(**dict.fromkeys(others, must_not_be_called))
    CHECKS[problem](*(getattr(module, name) for name in FUNCTIONS[problem]), model=small_bert)
    assert capsys.readouterr().out.startswith(f"Problem {problem}: correct.")
    assert all(getattr(module, name) is must_not_be_called for name in others)


@pytest.mark.parametrize("name", ["2a unsolved", "2a nothing frozen", "2a the same model again", "2a three labels"])
def test_a_wrong_init_model_fails_2a_and_not_2b(small_bert: Path, capsys, name: str) -> None:
    module = copy_exercises(init_model=WRONG[name][1][0])
    with pytest.raises(CheckFailed):
        problem_2a(module.init_model, model=small_bert)
    problem_2b(module.init_trainer, module.init_tester, model=small_bert)
    assert "Problem 2b: correct." in capsys.readouterr().out


def test_an_unsolved_function_is_named_with_what_to_do(bert_tiny: Path) -> None:
    with pytest.raises(CheckFailed, match="^Problem 2a: unsolved is not written yet. Write it in helpers/exercises.py"):
        problem_2a(unsolved, model=bert_tiny)


def test_the_judges_need_no_torch() -> None:
    script = "import sys, helpers.checks\nassert not {'torch', 'transformers', 'optuna'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_what_was_seen_survives_a_pipe(small_bert: Path, tmp_path: Path, monkeypatch) -> None:
    """A grader's judge gets JSON from another process."""
    monkeypatch.chdir(tmp_path)
    for problem, solutions in RIGHT.items():
        given = json.loads(json.dumps(give_public(problem, str(small_bert))))
        seen = observe(problem, solutions, given)
        assert json.loads(json.dumps(seen, allow_nan=False)) == seen
        assert "correct" in judge(problem, seen, json.loads(json.dumps(expect(problem, given))))


@pytest.fixture(scope="module")
def expectations(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("expectations"))
        return {problem: expect(problem, give_public(problem, str(small_bert))) for problem in CHECKS}


@pytest.mark.parametrize("problem", CHECKS)
@pytest.mark.parametrize(
    "seen",
    [None, [], {}, {"records": None, "stopped": None}, {"records": [None] * 9, "stopped": None}]
    + [{"records": [{}] * 99, "stopped": None}, {"records": [], "stopped": None}, {"records": [], "stopped": 3}],
    ids=repr,
)
def test_a_forged_observation_never_passes(expectations: dict, problem: str, seen: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017
        judge(problem, seen, expectations[problem])


def test_a_check_leaves_nothing_behind(bert_tiny: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    build = BertForSequenceClassification.__init__
    for problem, check in CHECKS.items():
        check(*RIGHT[problem], model=bert_tiny)
    assert os.getcwd() == str(tmp_path) and os.listdir(tmp_path) == []
    assert BertForSequenceClassification.__init__ is build


def test_a_mistake_is_given_its_line(bert_tiny: Path) -> None:
    def stumbles(trial, model_name, use_bitfit=False):
        return undefined_name  # noqa: F821

    line = stumbles.__code__.co_firstlineno + 1
    with pytest.raises(CheckFailed, match=f"in stumbles, line {line} of test_checks.py, with NameError"):
        problem_2a(stumbles, model=bert_tiny)


def test_notebooks_show_the_message_alone() -> None:
    assert CheckFailed("Problem 2a: no.")._render_traceback_() == ["CheckFailed: Problem 2a: no."]
