"""The five functions, called as the original course's notebooks call them."""

from pathlib import Path

import optuna
import pytest
import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from helpers.exercises import (
    hyperparameter_search_settings,
    init_model,
    init_tester,
    init_trainer,
    preprocess_dataset,
)
from helpers.models import count_parameters, load_classifier, load_tokenizer
from helpers.settings import Settings

TEXTS = [f"{'very ' * (row % 5)}good" for row in range(15)] + ["long " * 600]
ROWS = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 8})
NAMES = ["input_ids", "token_type_ids", "attention_mask"]


@pytest.fixture(scope="module")
def data(small_bert: Path) -> Dataset:
    return preprocess_dataset(ROWS, load_tokenizer(str(small_bert)))


@pytest.fixture
def short(data: Dataset) -> Dataset:
    """The same reviews with 8 ids each, which train faster."""
    return data.map(lambda row: {name: row[name][:8] for name in NAMES})


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_preprocessing_gives_512_of_each(data: Dataset) -> None:
    assert set(NAMES) <= set(data.column_names) and list(data["label"]) == list(ROWS["label"])
    assert all(len(row[name]) == 512 for row in data for name in NAMES)
    assert data[1]["input_ids"][:5] == [101, 2200, 2204, 102, 0]
    assert [sum(row["attention_mask"]) for row in data] == [3, 4, 5, 6, 7] * 3 + [512]
    assert data[15]["input_ids"][-1] == 102 and not any(sum(row["token_type_ids"]) for row in data)


def test_preprocessing_does_not_depend_on_the_tokenizer_s_own_limit(small_bert: Path, data: Dataset) -> None:
    tokenizer = load_tokenizer(str(small_bert))
    tokenizer.model_max_length = int(1e30)  # As it is for the hub's bert-tiny.
    assert preprocess_dataset(ROWS, tokenizer)["input_ids"][:] == data["input_ids"][:]


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
    measured = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
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


class Watch(TrainerCallback):
    """Notes the study, and the accuracy with which each trial ends."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.studies, self.accuracies = trainer, [], []

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        self.studies.append(self.trainer._trial.study)
        self.accuracies.append(metrics["eval_accuracy"])


def test_the_whole_grid_is_searched(small_bert: Path, short: Dataset) -> None:
    trainer = init_trainer(str(small_bert), short, short)
    trainer.args.num_train_epochs, trainer.args.max_steps = 1, 1
    trainer.args.disable_tqdm = True
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)
    best = trainer.hyperparameter_search(**hyperparameter_search_settings())
    trials = watch.studies[-1].trials
    assert len(trials) == 20 == len(watch.accuracies)
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    cells = [(trial.params["learning_rate"], trial.params["per_device_train_batch_size"]) for trial in trials]
    assert sorted(cells) == sorted(Settings().cells)
    assert [trial.value for trial in trials] == watch.accuracies
    assert best.objective == max(watch.accuracies)
    assert best.hyperparameters == trials[int(best.run_id)].params


def test_search_settings_are_new_each_time() -> None:
    first, second = hyperparameter_search_settings(), hyperparameter_search_settings()
    assert first["sampler"] is not second["sampler"]


def test_the_tester_reads_the_saved_classifier(small_bert: Path) -> None:
    saved = load_classifier(str(small_bert))
    saved.save_pretrained("saved")
    assert torch.equal(init_tester("saved").model.cpu().classifier.weight, saved.classifier.weight)
