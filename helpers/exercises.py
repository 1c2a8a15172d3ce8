"""The five functions of the assignment: the only file of the package that a student edits."""

from typing import Any

import numpy as np
import optuna
from datasets import Dataset
from transformers import BertForSequenceClassification, BertTokenizerFast, EvalPrediction, Trainer, TrainingArguments

from helpers.models import load_classifier
from helpers.settings import find_build_folder

OUTPUT = str(find_build_folder() / "trainer")  # for the Trainers' `output_dir`


def preprocess_dataset(dataset: Dataset, tokenizer: BertTokenizerFast) -> Dataset:
    """Problem 1d: tokenise the column `text` of every review.

    Adds the columns `input_ids`, `token_type_ids` and `attention_mask`, each with exactly 512 integers per review:
    longer reviews are truncated, shorter ones padded. The column `label` stays as it is.
    """
    ### BEGIN SOLUTION
    return dataset.map(
        lambda batch: tokenizer(batch["text"], padding="max_length", truncation=True, max_length=512), batched=True
    )
    ### END SOLUTION


def init_model(trial: Any, model_name: str, use_bitfit: bool = False) -> BertForSequenceClassification:
    """Problem 2a: load the classifier (`load_classifier`); with `use_bitfit`, train its bias terms and nothing else.

    Decide for each parameter yourself: the course's own policies (`helpers.models`) are not available in the check.
    The Trainer calls this function again for every trial; `trial` is Optuna's, or None, and need not be used.
    """
    ### BEGIN SOLUTION
    model = load_classifier(model_name)
    if use_bitfit:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith(".bias")
    return model
    ### END SOLUTION


def compute_metrics(predictions: EvalPrediction) -> dict[str, float]:
    """The share of reviews whose larger logit is that of their label; given to you, for the two functions below."""
    return {"accuracy": float((np.argmax(predictions.predictions, axis=-1) == predictions.label_ids).mean())}


def init_trainer(model_name: str, train_data: Dataset, val_data: Dataset, use_bitfit: bool = False) -> Trainer:
    """Problem 2b: build a Trainer that fine-tunes for 4 epochs and reports the validation accuracy after each.

    It saves nothing during training. `train_data` and `val_data` come from `preprocess_dataset`; use them unchanged.
    The Trainer's `model_init` builds the model with `init_model`: every trial must start afresh. The course's search
    takes `model_init` and `compute_metrics` from this Trainer, and sets learning rate, batch size, seed, precision and
    logging itself. Leave the rest of the recipe (optimizer, schedule, loss) at the library's defaults.
    """
    ### BEGIN SOLUTION
    arguments = TrainingArguments(
        output_dir=OUTPUT,
        num_train_epochs=4,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
    )
    return Trainer(
        model_init=lambda trial=None: init_model(trial, model_name, use_bitfit),
        args=arguments,
        train_dataset=train_data,
        eval_dataset=val_data,
        compute_metrics=compute_metrics,
    )
    ### END SOLUTION


def init_tester(directory: str) -> Trainer:
    """Problem 2b: build a Trainer that tests the fine-tuned model saved in `directory`, and never trains it."""
    ### BEGIN SOLUTION
    arguments = TrainingArguments(output_dir=OUTPUT, do_train=False, do_predict=True, report_to="none")
    return Trainer(model=load_classifier(directory), args=arguments, compute_metrics=compute_metrics)
    ### END SOLUTION


def hyperparameter_search_settings() -> dict[str, Any]:
    """Problem 2c: the keyword arguments of `Trainer.hyperparameter_search` for an exhaustive grid search.

    Every pair of the published learning rates and batch sizes is tried once, to the end, and the trial with the highest
    validation accuracy is the best one.
    """
    ### BEGIN SOLUTION
    grid = {
        "learning_rate": [3e-4, 1e-4, 5e-5, 3e-5],
        "per_device_train_batch_size": [8, 16, 32, 64, 128],
    }
    return {
        "direction": "maximize",
        "backend": "optuna",
        "n_trials": 20,
        "hp_space": lambda trial: {name: trial.suggest_categorical(name, values) for name, values in grid.items()},
        "compute_objective": lambda metrics: metrics["eval_accuracy"],
        "sampler": optuna.samplers.GridSampler(grid),
        "pruner": optuna.pruners.NopPruner(),
    }
    ### END SOLUTION
