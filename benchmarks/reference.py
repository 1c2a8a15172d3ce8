"""The assignment as it is usually solved: reviews padded to 512 tokens, the plain Trainer, fp32, one process.

`helpers` is measured against this file, in which nothing is optimised.
"""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BertTokenizerFast, Trainer, TrainingArguments
from transformers.utils import logging

from helpers.settings import Run

logging.set_verbosity_error()
logging.disable_progress_bar()


def tokenise(reviews: Dataset, model_name: str) -> Dataset:
    tokenizer = BertTokenizerFast.from_pretrained(model_name)
    return reviews.map(
        lambda batch: tokenizer(batch["text"], padding="max_length", truncation=True, max_length=512), batched=True
    )


def init_model(model_name: str, use_bitfit: bool):
    model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=2, dtype=torch.float32)
    if use_bitfit:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "bias" in name
    return model


def init_trainer(model_name: str, train: Dataset, validation: Dataset, run: Run, folder: Path) -> Trainer:
    return Trainer(
        model_init=lambda: init_model(model_name, run.policy == "bitfit"),
        args=TrainingArguments(
            output_dir=str(folder),
            learning_rate=run.learning_rate,
            per_device_train_batch_size=run.batch_size,
            num_train_epochs=run.epochs,
            seed=run.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=lambda output: {
            "accuracy": float((np.argmax(output.predictions, axis=-1) == output.label_ids).mean())
        },
    )
