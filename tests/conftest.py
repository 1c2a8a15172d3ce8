import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel

from helpers.models import load_tokenizer
from helpers.settings import OFFLINE
from helpers.training import TokenisedReviews

VOCABULARY = OFFLINE / "checkpoint" / "vocab.txt"
BERT_TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than cores: many tests wait for processes of their own."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def quick_garbage_collection() -> Iterator[None]:
    """The Trainer collects garbage several times a run: half a second each time, unless what is loaded is left out."""
    gc.freeze()
    yield
    gc.unfreeze()


def save_bert(folder: Path, dtype: torch.dtype = torch.float32, **shape: int) -> Path:
    """Save a random pre-trained model, its vocabulary beside it, in the shape of today's hub folders."""
    torch.manual_seed(3463)
    BertModel(BertConfig(**shape)).to(dtype).save_pretrained(folder)
    shutil.copy(VOCABULARY, folder)
    return folder


def tokenised(model: Path, count: int = 16) -> TokenisedReviews:
    """A few reviews of different lengths, as `training.prepare` gives them."""
    rows = {"text": [f"{'very ' * (row % 5)}good" for row in range(count)], "label": [0, 1] * (count // 2)}
    ids = load_tokenizer(str(model))(rows["text"], padding="max_length", max_length=12)
    return TokenisedReviews.from_padded(Dataset.from_dict(rows | dict(ids)))


@pytest.fixture(scope="session")
def bert_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of BERT-tiny's exact shape."""
    return save_bert(tmp_path_factory.mktemp("models") / "tiny", **BERT_TINY)


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with 2 layers, 16 wide."""
    return save_bert(tmp_path_factory.mktemp("models") / "small", **SMALL)
