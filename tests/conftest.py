import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel

from helpers.models import load_tokenizer
from helpers.prepare import refresh_exercises, strip_padding
from helpers.progress import Progress
from helpers.settings import OFFLINE, Settings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
VOCABULARY = OFFLINE / "checkpoint" / "vocab.txt"
BERT_TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def quick_garbage_collection() -> Iterator[None]:
    """The Trainer collects garbage several times a run: half a second each time, unless what is loaded is left out."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def fresh_exercises() -> None:
    """Import them here: else the first test that trains does, and undoes what it has put in their place."""
    refresh_exercises()


def save_bert(folder: Path, dtype: torch.dtype = torch.float32, **shape: int) -> Path:
    """Save a random pre-trained model, its vocabulary beside it, in the shape of today's hub folders."""
    torch.manual_seed(3463)
    BertModel(BertConfig(**shape)).to(dtype).save_pretrained(folder)
    shutil.copy(VOCABULARY, folder)
    return folder


def tokenised(model: Path, count: int = 16) -> Dataset:
    """A few reviews of different lengths, as `prepare.prepare` gives them."""
    rows = {"text": [f"{'very ' * (row % 5)}good" for row in range(count)], "label": [0, 1] * (count // 2)}
    ids = load_tokenizer(str(model))(rows["text"], padding="max_length", max_length=12)
    return strip_padding(Dataset.from_dict(rows | dict(ids)))


@pytest.fixture(scope="session")
def bert_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of BERT-tiny's exact shape."""
    return save_bert(tmp_path_factory.mktemp("models") / "tiny", **BERT_TINY)


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with 2 layers, 16 wide."""
    return save_bert(tmp_path_factory.mktemp("models") / "small", **SMALL)


WORDS = ["the", "film", "was", "not", "good", "bad", "dull", "bright", "slow", "fine", "but", "and", "never", "always"]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data folder, small enough for a run to take a second."""
    folder = tmp_path_factory.mktemp("sources")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    save_bert(folder / "model", **SMALL, vocab_size=len(vocabulary))
    (folder / "model" / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "data").mkdir()
    for split, offset in (("train", 0), ("test", 3)):
        texts = [" ".join(WORDS[(i * 7 + j * (offset + 1)) % len(WORDS)] for j in range(4 + i % 5)) for i in range(40)]
        rows = pd.DataFrame({"text": texts, "label": [i % 2 for i in range(40)]})
        rows.to_csv(folder / "data" / f"{split}.csv", index=False)
    return folder


def small_settings(sources: Path, build: Path) -> Settings:
    """A grid of four runs of two epochs."""
    small = {"learning_rates": (3e-4, 1e-4), "batch_sizes": (8, 16), "epochs": 2}
    return Settings(model=str(sources / "model"), data=str(sources / "data"), build=build, **small)


@pytest.fixture
def settings(sources: Path, tmp_path: Path) -> Settings:
    return small_settings(sources, tmp_path / "build")


@pytest.fixture
def shown(monkeypatch) -> list[dict[str, str]]:
    """What is displayed, as plain text unless a test asks for more."""
    bundles = []
    monkeypatch.setenv("COURSE_PROGRESS", "plain")
    monkeypatch.delenv("CI", raising=False)
    for place in ("helpers.tokens.display", "IPython.display.display"):
        monkeypatch.setattr(place, lambda bundle, **options: bundles.append(bundle))
    return bundles


class Listener(Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def accuracies(records: list[dict]) -> list[list[float]]:
    """Every run's losses and accuracies, for comparison bit for bit."""
    return [[epoch[name] for epoch in run["history"] for name in ("loss", "validation_accuracy")] for run in records]


def run_python(
    *arguments: object, cwd: Path = ROOT, path: tuple = (ROOT,), **variables: str
) -> subprocess.CompletedProcess:
    """Run this Python with the course from `path`, and none of the variables of course and hub but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "HF_"))}
    kept |= {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=kept | variables, capture_output=True, text=True)


def change_cell(notebooks: Path, *ids: str, **changes: object) -> None:
    """Change the cells of these ids in a folder of notebooks, as JSON: an editor may save what no library would."""
    contents = {path: json.loads(path.read_text(encoding="utf-8")) for path in notebooks.glob("*.ipynb")}
    found = [cell for content in contents.values() for cell in content["cells"] if cell["id"] in ids]
    assert found, f"no cell {ids}"
    for cell in found:
        cell.update(changes)
    for path, content in contents.items():
        path.write_text(json.dumps(content), encoding="utf-8")


def wait_until(condition, seconds: float = 300) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
