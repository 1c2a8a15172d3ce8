"""The assignment as it is usually solved: reviews padded to 512 tokens, the plain Trainer, fp32, one process.

What this file computes is what `helpers` is measured against; nothing in it is made quick.
"""

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BertTokenizerFast, Trainer, TrainingArguments
from transformers.utils import logging

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


def init_trainer(model_name: str, train: Dataset, validation: Dataset, use_bitfit: bool, **arguments) -> Trainer:
    """Build the Trainer of one run; `arguments` are TrainingArguments (batch size, learning rate, epochs, seed)."""
    return Trainer(
        model_init=lambda: init_model(model_name, use_bitfit),
        args=TrainingArguments(save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, **arguments),
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=lambda output: {
            "accuracy": float((np.argmax(output.predictions, axis=-1) == output.label_ids).mean())
        },
    )
