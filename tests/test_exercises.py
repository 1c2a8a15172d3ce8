"""The five functions, called as the original course's notebooks call them."""

from pathlib import Path

import optuna
import pytest
import torch
from datasets import Dataset
from transformers import PrinterCallback

from helpers.exercises import (
    hyperparameter_search_settings,
    init_model,
    init_tester,
    init_trainer,
    preprocess_dataset,
)
from helpers.models import count_parameters, load_tokenizer
from helpers.recipe import CHOICES, SEARCH, read_rows
from helpers.settings import Settings

TEXTS = [f"{'very ' * (row % 5)}good" for row in range(15)] + ["long " * 600]
ROWS = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 8})
NAMES = ["input_ids", "token_type_ids", "attention_mask"]


@pytest.fixture(scope="module")
def rows(small_bert: Path) -> dict[str, list]:
    """What training reads of the preprocessed reviews, whatever their format or transform is."""
    return read_rows(preprocess_dataset(ROWS, load_tokenizer(str(small_bert))), 0, len(ROWS))


@pytest.fixture
def short(rows: dict[str, list]) -> Dataset:
    """The same reviews with 8 ids each, which train faster."""
    return Dataset.from_dict({name: [row[:8] for row in rows[name]] for name in NAMES} | {"label": rows["label"]})


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_preprocessing_gives_512_of_each(rows: dict[str, list]) -> None:
    assert rows["label"] == list(ROWS["label"])
    assert all(len(row) == 512 for name in NAMES for row in rows[name])
    assert rows["input_ids"][1][:5] == [101, 2200, 2204, 102, 0]
    assert list(map(sum, rows["attention_mask"])) == [3, 4, 5, 6, 7] * 3 + [512]
    assert rows["input_ids"][15][-1] == 102 and not any(map(sum, rows["token_type_ids"]))


def test_init_model(bert_tiny: Path) -> None:
    assert count_parameters(init_model(None, str(bert_tiny), use_bitfit=True)) == 3_074
    assert count_parameters(init_model(None, str(bert_tiny))) == 4_386_178


def test_init_model_gives_another_model_each_time(small_bert: Path) -> None:
    first, second = (init_model(None, str(small_bert)) for _ in range(2))
    assert first is not second and not torch.equal(first.classifier.weight, second.classifier.weight)


@pytest.mark.parametrize("use_bitfit", [False, True])
def test_trainer_then_tester(small_bert: Path, short: Dataset, tmp_path: Path, use_bitfit: bool) -> None:
    trainer = init_trainer(str(small_bert), short, short, use_bitfit=use_bitfit)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    measured = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry and entry["epoch"] > 0]
    assert [entry["epoch"] for entry in measured] == [1, 2, 3, 4]
    trainer.save_model("best")

    tester = init_tester("best")
    tester.remove_callback(PrinterCallback)
    prediction = tester.predict(short)
    right = prediction.predictions.argmax(-1) == torch.tensor(short["label"]).numpy()
    assert prediction.metrics["test_accuracy"] == pytest.approx(right.mean())
    assert prediction.metrics["test_accuracy"] == pytest.approx(measured[-1]["eval_accuracy"])
    assert all(map(torch.equal, tester.model.cpu().parameters(), trainer.model.cpu().parameters()))
    with pytest.raises(ValueError, match="train_dataset"):
        tester.train()


def test_the_whole_grid_is_searched(small_bert: Path, short: Dataset) -> None:
    trainer = init_trainer(str(small_bert), short, short)
    trainer.args.num_train_epochs, trainer.args.max_steps = 1, 1
    trainer.args.disable_tqdm = True
    trainer.remove_callback(PrinterCallback)
    search = {name: value for name, value in hyperparameter_search_settings().items() if name in SEARCH}
    space, trials, cells = search["hp_space"], [], []

    def watched(trial):
        trials.append(trial)
        cells.append(space(trial))
        return cells[-1]

    trainer.hyperparameter_search(**search | {"hp_space": watched})
    study = trials[-1].study
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    assert sorted(tuple(cell[name] for name in CHOICES) for cell in cells) == sorted(Settings().cells)
