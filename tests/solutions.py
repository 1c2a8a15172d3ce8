"""Solutions of the code problems, most of them wrong, made of what they do otherwise than the right one."""

import functools
import html
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import torch
from datasets import ClassLabel, Value
from transformers import (
    BertForSequenceClassification,
    BertModel,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from helpers import exercises, models, recipe
from helpers.checks import MODEL
from helpers.models import count_parameters, load_classifier, load_tokenizer

IDS = list(recipe.COLUMNS[:3])


def unsolved(*arguments: Any, **options: Any) -> None:
    raise NotImplementedError


def returns_nothing(*arguments: Any, **options: Any) -> None:
    pass


def preprocess(change: Callable = lambda data: data, text: Callable[[str], str] = str, **options: Any) -> Callable:
    """Solve Problem 1d with other options of the tokenizer, of another text, or change what comes out."""
    options = {"padding": "max_length", "truncation": True, "max_length": 512} | options

    def preprocess_dataset(dataset, tokenizer):
        return change(dataset.map(lambda batch: tokenizer([*map(text, batch["text"])], **options), batched=True))

    return preprocess_dataset


def map_with(change: Callable, **options: Any) -> Callable:
    """Solve Problem 1d by mapping a function of the rows and the tokenizer."""
    return lambda data, tokenizer: data.map(lambda rows: change(rows, tokenizer), **options)


def change_row(change: Callable) -> Callable:
    return preprocess(lambda data: data.map(change))


def truncated_on_the_left(dataset, tokenizer):
    tokenizer.truncation_side = "left"
    return exercises.preprocess_dataset(dataset, tokenizer)


def sort_by_length(data):
    return data.add_column("length", [sum(mask) for mask in data["attention_mask"]]).sort("length")


def transform(others: Callable, **options: Any) -> Callable:
    """Solve Problem 1d by a transform; `others` gives the columns that the tokenizer does not."""
    options = {"padding": "max_length", "truncation": True, "max_length": 512} | options
    return lambda data, tokenizer: data.with_transform(
        lambda batch: {**tokenizer(batch["text"], **options), **others(batch)}
    )


def is_bias(name: str, parameter: torch.nn.Parameter | None = None) -> bool:
    return name.endswith(".bias")


def model_with(
    trains: Callable[[str, torch.nn.Parameter], bool] = is_bias,
    full: Callable[[str], bool] = lambda name: True,
    load: Callable[[str], torch.nn.Module] = load_classifier,
) -> Callable:
    """Solve Problem 2a with other parameters trained, under BitFit or in full, or with a model of another origin."""

    def init_model(trial, model_name, use_bitfit=False):
        model = load(model_name)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = trains(name, parameter) if use_bitfit else full(name)
        return model

    return init_model


load_once = functools.cache(load_classifier)


def load_then(change: Callable[[torch.nn.Module], Any]) -> Callable:
    """Load the classifier, then change it or the whole process."""

    def load(model_name):
        model = load_classifier(model_name)
        change(model)
        return model

    return load


def load_with(kind: type[BertForSequenceClassification] = BertForSequenceClassification, **options: Any) -> Callable:
    options = {"num_labels": 2, "dtype": torch.float32} | options
    return lambda model_name: kind.from_pretrained(model_name, **options)


def load_seeded(model_name: str) -> torch.nn.Module:
    torch.manual_seed(42)
    return load_classifier(model_name)


def change_a_value(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[2000, 0] += 1e-4


class Weighted(BertForSequenceClassification):
    def forward(self, *given, labels=None, **options):
        output = super().forward(*given, **options)
        output.loss = None if labels is None else weighted(output, labels)
        return output


def counts(number: Callable[[bool], int]) -> Callable:
    """Solve Problem 2a, and assert the number of trained parameters."""

    def init_model(trial, model_name, use_bitfit=False):
        model = exercises.init_model(trial, model_name, use_bitfit)
        assert count_parameters(model) == number(use_bitfit)
        return model

    return init_model


def by_policy(trial, model_name, use_bitfit=False):
    return models.apply_policy(load_classifier(model_name), "bitfit" if use_bitfit else "full")


def bitfit_alone(trial, model_name, use_bitfit=False):
    return by_policy(trial, model_name, True) if use_bitfit else None


def trainer_with(
    init_model: Callable = exercises.init_model,
    metrics: Callable | None = exercises.compute_metrics,
    args: dict[str, Any] | None = None,
    kind: type[Trainer] = Trainer,
    train: Callable = lambda train: train,
    change: Callable[[Trainer], Any] = lambda trainer: None,
    **options: Any,
) -> Callable:
    """Solve the first half of Problem 2b with another model, metric or argument, or change the Trainer."""
    args = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no"} | (args or {})

    def init_trainer(model_name, train_data, val_data, use_bitfit=False):
        trainer = kind(
            model_init=lambda: init_model(None, model_name, use_bitfit),
            args=TrainingArguments(**{"output_dir": "checkpoints", "report_to": "none"} | args),
            train_dataset=train(train_data),
            eval_dataset=val_data,
            compute_metrics=metrics,
            **options,
        )
        change(trainer)
        return trainer

    return init_trainer


def trainer_of(model_init: Callable) -> Callable:
    """Solve the first half of Problem 2b with what `model_init` returns as the Trainer's."""
    return lambda name, train_data, val_data, use_bitfit=False: Trainer(model_init=model_init(name, use_bitfit))


def trainer_of_one_model(model_name, train_data, val_data, use_bitfit=False):
    return Trainer(exercises.init_model(None, model_name, use_bitfit), compute_metrics=exercises.compute_metrics)


def train_a_step(trainer: Trainer) -> None:
    trainer.args.max_steps = 1
    trainer.train()


def weighted(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs["logits"], labels, weight=torch.tensor([1.0, 2.0]))


def precision(predictions: Any) -> dict[str, float]:
    predicted = predictions.predictions.argmax(-1)
    return {"accuracy": float((predicted * predictions.label_ids).sum() / max(predicted.sum(), 1))}


def score(predictions: Any, predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted == predictions.label_ids).mean())}


def rounded(predictions: Any) -> dict[str, float]:
    return {"accuracy": round(exercises.compute_metrics(predictions)["accuracy"], 3)}


def in_single_precision(predictions: Any) -> dict[str, float]:
    return {"accuracy": np.float32(exercises.compute_metrics(predictions)["accuracy"])}


def by_sign(predictions: Any) -> dict[str, float]:
    return score(predictions, predictions.predictions[:, 1] > 0)


def make_tester(make: Callable[[str], dict[str, Any]], metrics: Callable | None = exercises.compute_metrics, **options):
    """Solve the second half of Problem 2b with another model, metric or argument."""

    def init_tester(directory):
        arguments = TrainingArguments(output_dir="checkpoints", report_to="none", **options)
        return Trainer(args=arguments, compute_metrics=metrics, **make(directory))

    return init_tester


def saved(directory: str, load: Callable[[str], torch.nn.Module] = load_classifier) -> dict[str, Any]:
    return {"model": load(directory)}


MASKING = DataCollatorForLanguageModeling(load_tokenizer(MODEL))
BEST = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
HARMLESS = {"n_jobs": 1, "timeout": None, "callbacks": [], "catch": (), "gc_after_trial": True, "study_name": "mine"}
HARMLESS |= {"hp_name": str, "show_progress_bar": True, "storage": "sqlite:///mine.db", "load_if_exists": True}
XAVIER = torch.nn.init.xavier_uniform_
RATES, SIZES = [3e-4, 1e-4, 5e-5, 3e-5], [8, 16, 32, 64, 128]


def search_with(
    rates: list = RATES,
    sizes: list = SIZES,
    drop: str = "",
    change: Callable[[dict[str, Any]], Any] = lambda chosen: chosen,
    **options: Any,
) -> Callable:
    """Solve Problem 2c with another grid, without one of the keys, with other values, or change what is chosen."""

    def hyperparameter_search_settings():
        grid = {"learning_rate": rates, "per_device_train_batch_size": sizes}
        search = {
            "direction": "maximize",
            "backend": "optuna",
            "n_trials": 20,
            "hp_space": lambda trial: change({name: trial.suggest_categorical(name, grid[name]) for name in grid}),
            "compute_objective": lambda metrics: metrics["eval_accuracy"],
            "sampler": optuna.samplers.GridSampler(grid),
            "pruner": optuna.pruners.NopPruner(),
        }
        return {name: value for name, value in (search | options).items() if name != drop}

    return hyperparameter_search_settings


def space_by_index(trial):
    cell = trial.suggest_categorical("cell", list(range(20)))
    return dict(zip(recipe.CHOICES, (RATES[cell // 5], SIZES[cell % 5]), strict=True))


# From a problem to what is wrong: a name, the solution, and words of the message. In 2b the solution is `init_trainer`.
WRONG: dict[str, list[tuple[str, Callable, str]]] = {
    "1d": [
        ("format set in place", lambda data, tokenizer: data.set_format("torch"), "such as set_format, return None"),
        ("a column put in", lambda data, tokenizer: operator.setitem(data, "x", 1), "cannot be changed in place"),
        ("a batch to the tokenizer", lambda data, tokenizer: data.map(tokenizer, batched=True), "not a data set"),
        ("one text only", map_with(lambda rows, tokenizer: tokenizer(rows["text"][0]), batched=True), "one row per"),
        ("encode_plus", map_with(lambda row, tokenizer: tokenizer.encode_plus(row["text"])), "encode_plus is gone"),
        ("nothing returned in map", lambda data, tokenizer: data.map(returns_nothing), "came back unchanged: `map`"),
        ("padded to the longest", preprocess(padding=True), "pads to the longest text"),
        ("not padded", preprocess(padding=False), "found 12. Hint: shorter reviews must be filled up"),
        ("not truncated", preprocess(truncation=False), "truncation"),
        ("128 ids", preprocess(max_length=128), "found 128. Hint: they are the given tokenizer's"),
        (
            "another tokenizer",
            lambda data, given: exercises.preprocess_dataset(data, load_tokenizer(MODEL)),
            "given tokenizer's",
        ),
        ("text cut to 512 letters", preprocess(text=lambda text: text[:512]), "BERT's limit counts tokens"),
        ("ASCII alone", preprocess(text=functools.partial(re.sub, "[^ -~]", "")), "for the text as it is"),
        ("without links", preprocess(text=functools.partial(re.sub, r"www\S+", "")), "for the text as it is"),
        ("entities read", preprocess(text=html.unescape), "for the text as it is"),
        ("breaks removed", preprocess(text=lambda text: text.replace("<br />", "")), "`<br />` is part of it"),
        ("truncated on the left", truncated_on_the_left, "the end of a long review was kept"),
        ("padded on the left", preprocess(padding_side="left"), "padding comes before the text"),
        ("no special tokens", preprocess(add_special_tokens=False), "[CLS] and [SEP] are missing"),
        ("no mask", preprocess(return_attention_mask=False), "attention_mask: expected there, but it is missing"),
        (
            "mask inverted",
            change_row(lambda row: {"attention_mask": [1 - x for x in row["attention_mask"]]}),
            "wrong way",
        ),
        ("mask too short", change_row(lambda row: {"attention_mask": [1] * 9}), "512 token_type_ids, 9 attention_mask"),
        ("a batch of one", change_row(lambda row: {"input_ids": [row["input_ids"]]}), "found a list in the list"),
        ("label as text", preprocess(lambda data: data.cast_column("label", Value("string"))), "an integer, found '0'"),
        ("label hidden", preprocess(lambda data: data.with_format("torch", columns=IDS)), "label: expected there, but"),
        ("fewer labels than reviews", transform(lambda batch: {"label": [0]}), "a row for each of 3 reviews, found 1"),
        ("label changed", change_row(lambda row: {"label": 1 - row["label"]}), "label of review 0"),
        ("rows dropped", preprocess(lambda data: data.select(range(2))), "number of reviews: expected 3, found 2"),
        ("rows sorted by length", preprocess(sort_by_length), "keep the rows in their order"),
        ("tags removed", preprocess(text=functools.partial(re.sub, "<[^>]+>", " ")), "`<br />` is part of it"),
        ("the first 1,000", preprocess(lambda data: data.select(range(min(1000, len(data))))), "found 1000"),
        ("torch's data set", lambda *given: torch.utils.data.TensorDataset(), "datasets.Dataset, found torch.Tensor"),
    ],
    "2a": [
        ("unsolved", unsolved, "unsolved is not written yet. Write it in helpers/exercises.py"),
        (
            "encoder only",
            lambda trial, name, **options: BertModel.from_pretrained(name),
            "use_bitfit=False returns: expected transformers.BertForSequenceClassification, found transformers.BertMo",
        ),
        ("nothing frozen", model_with(lambda name, p: True), "found trained. Hint: nothing was frozen"),
        ("BitFit alone returned", bitfit_alone, "use_bitfit=False returns: expected transformers.BertForSequenceClass"),
        ("everything frozen", model_with(lambda name, p: False), ".bias (128 values): expected trained"),
        ("bias in the name", model_with(lambda name, p: "bias" in name), "an empty tensor that this check adds"),
        ("biases frozen", model_with(lambda name, p: not is_bias(name)), "the wrong way round"),
        ("one-dimensional", model_with(lambda name, p: p.ndim == 1), "LayerNorm.weight (128 values)"),
        ("head trained", model_with(lambda name, p: is_bias(name) or "classifier" in name), "random weight stays"),
        ("head frozen", model_with(lambda name, p: is_bias(name) and "bert" in name), "classifier.bias (2 values)"),
        ("full freezes the table", model_with(is_bias, lambda name: "word" not in name), "(3,906,816 values)"),
        ("the same model again", model_with(load=load_once), "values of bert."),
        ("a seed of its own", model_with(load=load_seeded), "set no seed yourself"),
        ("a seed afterwards", model_with(load=load_then(lambda model: torch.manual_seed(42))), "the next random"),
        (
            "double for all",
            model_with(load=load_then(lambda model: torch.set_default_dtype(torch.float64))),
            "default data type: expected torch.float32",
        ),
        ("whatever the name", model_with(load=lambda name: load_classifier(MODEL)), "values of bert."),
        ("more dropout", model_with(load=load_with(classifier_dropout=0.5)), "expected (dropout): Dropout(p=0.1"),
        ("a loss of its own", model_with(load=load_with(Weighted)), "expected None, found own method: forward"),
        ("many labels", model_with(load=load_with(problem_type="multi_label_classification")), "problem_type"),
        ("straight from the library", model_with(load=load_with(dtype="auto")), "found data type: torch.float16"),
        ("three labels", model_with(load=load_with(num_labels=3)), "out_features=2, bias=True), found (class"),
        ("no trial", lambda model_name, use_bitfit=False: load_classifier(model_name), "init_model takes the trial"),
        (
            "a head drawn otherwise",
            model_with(load=load_then(lambda model: XAVIER(model.classifier.weight))),
            "initial weight: expected as drawn",
        ),
        ("a name of the hub", lambda *given, **options: load_classifier("nobody/bert-tiny"), "a name of your own"),
        ("a bare assert", counts(lambda use_bitfit: 1), "of solutions.py, with AssertionError: assert count_par"),
        ("the course's function", by_policy, "expected a loop of your own"),
    ],
    "2b": [
        ("returns nothing", returns_nothing, "expected transformers.Trainer, found NoneType"),
        ("model instead of model_init", trainer_of_one_model, "model_init: expected there, found missing"),
        ("model_init called", trainer_of(lambda *given: exercises.init_model(None, *given)), "function, found a model"),
        ("a seed of its own", trainer_with(model_with(load=load_seeded)), "set no seed yourself"),
        ("positive by sign", trainer_with(metrics=by_sign), "predicts 0: expected"),
        ("stopped early", trainer_with(callbacks=[EarlyStoppingCallback(1)]), "callbacks: expected none, found Early"),
        ("weighted loss", trainer_with(compute_loss_func=weighted), "compute_loss_func: expected none, found weighted"),
        ("SGD given", trainer_with(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1})), "optimizer_cls_and_kwargs"),
        ("logits changed", trainer_with(preprocess_logits_for_metrics=lambda x, y: x), "preprocess_logits_for_metrics"),
        ("own batches", trainer_with(data_collator=lambda rows: rows), "data_collator: expected none, found"),
        ("a loss put in", trainer_with(change=lambda t: setattr(t, "compute_loss", weighted)), "found compute_loss"),
        ("old name", trainer_with(args={"evaluation_strategy": "epoch"}), "evaluation_strategy is now eval_strategy"),
        ("no reports, in another word", trainer_with(args={"report_to": "None"}), 'report_to="none"'),
        ("no logging step", trainer_with(args={"logging_steps": 16 // 64}), "leave logging and precision out"),
        ("the first row's", trainer_with(metrics=lambda p: score(p, p.predictions[0].argmax(-1))), "is always right"),
        ("trial left out", trainer_of(lambda *given: lambda: exercises.init_model(*given)), "takes the trial"),
        ("best one kept", trainer_with(args=BEST), "save_strategy: expected no, found epoch; load_best_model_at_end"),
        ("two at once", trainer_with(args={"num_train_epochs": 3, "weight_decay": 0.1}), "found 3; weight_decay"),
        ("a number for metrics", trainer_with(metrics=lambda predictions: 0.5), "compute_metrics must return a dict"),
        ("no metric", trainer_with(metrics=None), "found only eval_loss"),
        ("precision", trainer_with(metrics=precision), "always predicts 0"),
        ("accuracy rounded", trainer_with(metrics=rounded), "always predicts 0"),
        ("masked words", trainer_with(data_collator=MASKING), "found DataCollatorForLanguageModeling"),
        ("best one, not saved", trainer_with(args=BEST | {"save_strategy": "no"}), "TrainingArguments only output_dir"),
        ("a table logged", trainer_with(metrics=lambda p: {"table": [[1, 2]]}), "eval_table: expected a number"),
        ("use_bitfit ignored", trainer_with(lambda trial, name, bitfit: load_classifier(name)), "must pass use_bitfit"),
        ("trained already", trainer_with(change=train_a_step), "it must only build the Trainer"),
        (
            "half of the data",
            trainer_with(train=lambda data: data.select(range(8))),
            "rows of the Trainer's train_dataset: expected 16, found 8",
        ),
        ("data shuffled", trainer_with(train=lambda data: data.shuffle(seed=1)), "found other values or another order"),
    ],
    "2b tester": [
        ("returns nothing", returns_nothing, "expected transformers.Trainer, found NoneType"),
        ("the folder alone", make_tester(lambda folder: {"model": folder}), "must be a loaded model"),
        ("model_init", make_tester(lambda folder: {"model_init": lambda: load_classifier(folder)}), "model_init"),
        ("training", make_tester(saved, do_train=True), "do_train: expected False, found True"),
        ("training data", make_tester(lambda path: saved(path) | {"train_dataset": [1]}), "train_dataset: expected"),
        ("trained a little", make_tester(lambda path: saved(path, load_then(change_a_value))), "values of bert."),
        ("no metric", make_tester(saved, metrics=None), "found only test_loss"),
        ("a last batch left out", make_tester(saved, dataloader_drop_last=True), "drop_last: expected False"),
    ],
    "2c": [
        ("returns nothing", returns_nothing, "expected dict, found NoneType"),
        ("10 trials", search_with(n_trials=10), "cells that are never tried: expected []"),
        ("least loss", search_with(direction="minimize", compute_objective=lambda m: m["eval_loss"]), "found worse"),
        ("the name without eval_", search_with(compute_objective=lambda m: m["accuracy"]), "such as eval_accuracy"),
        ("accuracy rounded", search_with(compute_objective=lambda m: round(m["eval_accuracy"], 3)), "found as good"),
        ("several numbers", search_with(compute_objective=lambda m: [m["eval_accuracy"]]), "a number, found list"),
        ("compute_metrics for it", search_with(compute_objective=exercises.compute_metrics), "gets a dict of metrics"),
        ("objective by name", search_with(compute_objective="eval_accuracy"), "a function, found eval_accuracy"),
        ("direction shortened", search_with(direction="max"), "direction: expected maximize, found max"),
        ("no direction", search_with(drop="direction"), "direction minimize"),
        ("no pruner", search_with(drop="pruner"), "found MedianPruner. Hint: this pruner, Optuna's default"),
        ("pruner class", search_with(pruner=optuna.pruners.NopPruner), "found the class NopPruner. Hint"),
        ("sampler by name", search_with(sampler="grid"), "found grid. Hint: call one of Optuna's"),
        ("no sampler", search_with(drop="sampler"), "found twice"),
        ("no space", search_with(drop="hp_space"), "key hp_space: expected a function, found None"),
        ("space a dict", search_with(hp_space=dict.fromkeys(recipe.CHOICES)), "hp_space: expected a function"),
        ("another rate", search_with(change=lambda chosen: chosen | {"learning_rate": 4e-5}), "expected one of"),
        ("epochs too", search_with(change=lambda chosen: chosen | {"num_train_epochs": 2}), "what hp_space returns"),
        ("one rate forgotten", search_with(rates=RATES[1:]), "(0.0003, 8), (0.0003, 16)"),
        ("sizes with a point", search_with(sizes=[*map(float, SIZES)]), "one of 8, 16, 32, 64, 128, found"),
        ("a time limit", search_with(timeout=60), "key timeout: expected None, found 60"),
        ("misspelt key", search_with(n_trails=20), "the search needs only hp_space, compute_objective, n_trials"),
    ],
}

OTHER_RIGHT = {
    "1d one at a time, the limit the tokenizer's": map_with(
        lambda row, tokenizer: tokenizer(row["text"], padding="max_length", truncation=True)
    ),
    "1d tensors": preprocess(lambda data: data.with_format("torch", columns=[*IDS, "label"])),
    "1d a float label": preprocess(lambda data: data.cast_column("label", Value("float32"))),
    "1d a class label": preprocess(lambda data: data.cast_column("label", ClassLabel(names=["neg", "pos"]))),
    "1d a transform": transform(lambda batch: {"label": batch["label"]}),
    "2a last part of the name": model_with(lambda name, p: name.split(".")[-1] == "bias"),
    "2a from the library, in single precision": model_with(load=load_with()),
    "2a counts for itself": counts(lambda use_bitfit: 3_074 if use_bitfit else 4_386_178),
    "2b four epochs of numpy": trainer_with(args={"num_train_epochs": np.int64(4), "weight_decay": np.float64(0)}),
    "2b with tensors": trainer_with(train=lambda data: data.with_format("torch")),
    "2b by the library's setters": trainer_with(args={"eval_delay": None}),
    "2b columns removed": trainer_with(train=lambda data: data.remove_columns("text")),
    "2b label renamed": trainer_with(train=lambda data: data.rename_column("label", "labels")),
    "2b the library's padding": trainer_with(data_collator=DataCollatorWithPadding(None)),
    "2b a subclass that logs": trainer_with(kind=type("Loud", (Trainer,), {"log": lambda *given: None})),
    "2b the library's reports": trainer_with(callbacks=[PrinterCallback()]),
    "2b accuracy in single precision": trainer_with(metrics=in_single_precision),
    "2b more metrics": trainer_with(metrics=lambda p: exercises.compute_metrics(p) | {"f1": np.float32("nan")}),
    "2c the library's own objective": search_with(drop="compute_objective"),
    "2c brute force": lambda: search_with(sampler=optuna.samplers.BruteForceSampler())(),
    "2c the default number of trials": search_with(drop="n_trials"),
    "2c rates by multiplication": search_with(rates=[3 * 1e-4, 1e-4, 5 * 1e-5, 3 * 1e-5]),
    "2c minimised error": search_with(direction="minimize", compute_objective=lambda m: 1 - m["eval_accuracy"]),
    "2c cells by index": search_with(hp_space=space_by_index, sampler=optuna.samplers.GridSampler({"cell": range(20)})),
    "2c harmless keys": search_with(**HARMLESS),
}
