"""The quick forms give what the plain model gives."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, save_bert, tokenised
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, set_seed

from helpers import exercises, speed
from helpers.models import load_classifier, load_tokenizer
from helpers.settings import Run, Settings
from helpers.speed import QuickDropout, expand_vocabulary, shrink_vocabulary, speed_up, split_batch
from helpers.training import build_trainer


def small_bert(dropout: float = 0.0, **options) -> BertForSequenceClassification:
    set_seed(0)
    options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(**SMALL | {"num_hidden_layers": 3}, vocab_size=50, initializer_range=0.5, **options)
    return BertForSequenceClassification(config).double().train()


def padded_batch() -> dict[str, torch.Tensor]:
    lengths = torch.tensor([4, 9, 2, 9, 7])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(1, 50, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0, 1])}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# A probability this small drops nothing (0 of 65,536) but takes the training path.
@pytest.mark.parametrize("dropout", [0.0, 1e-12])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("mix", [speed._mix, speed._mix_padded])  # on a CPU, and on a GPU
def test_logits_and_gradients_are_the_plain_models(attention, padded, dropout, mix, monkeypatch):
    monkeypatch.setattr(speed, "_mix", mix)
    plain = small_bert(attn_implementation=attention)
    quick = copy.deepcopy(plain)
    for module in quick.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    speed_up(quick)
    batch = padded_batch()
    if not padded:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    losses = [model(**batch).loss for model in (plain, quick)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(gradients(quick), gradients(plain), rtol=1e-6, atol=1e-9)
    assert plain.classifier.weight.grad.abs().max() > 0
    torch.testing.assert_close(quick.eval()(**batch).logits, plain.eval()(**batch).logits)


def test_the_parts_of_a_batch_are_the_batch():
    model, batch = small_bert(), padded_batch()
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    rows, parts = zip(*split_batch(batch, tokens=18), strict=True)
    for part in parts:
        (model(**part).loss * len(part["labels"]) / 5).backward()
    torch.testing.assert_close(gradients(model), expected, rtol=1e-6, atol=1e-9)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(2, 9), (3, 7)]
    assert [part["attention_mask"].sum() for part in parts] == [18, 13]
    assert torch.cat(rows).tolist() == [1, 3, 4, 0, 2]
    assert [len(rows) for rows, _ in split_batch(batch, tokens=1)] == [1] * 5, "a long review is a part of its own"


@pytest.mark.parametrize("policy", ["full", "bitfit"])
def test_a_run_takes_the_plain_trainers_steps(policy, tmp_path):
    """The same batches in the same order and the same updates as the student's own Trainer, padded; without dropout."""
    model = save_bert(tmp_path / "model", **SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    rows = tokenised(model, 40)
    tokenizer = load_tokenizer(str(model))
    padded = [tokenizer.pad(row, padding="max_length", max_length=12) | {"label": row["label"]} for row in rows]
    padded = Dataset.from_list([dict(row) for row in padded])
    plain = exercises.init_trainer(str(model), padded, padded, use_bitfit=policy == "bitfit")
    arguments = {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2, "seed": 3}
    plain.args = replace(plain.args, output_dir=str(tmp_path), save_strategy="no", **arguments)
    settings, run = Settings(model=str(model), build=tmp_path), Run(policy, 1e-3, 8, seed=3, epochs=2)
    quick = build_trainer(settings, run, {"train": rows, "validation": rows}, str(model))
    for trainer in (plain, quick):
        trainer.train()
    expand_vocabulary(quick.model)
    found, expected = (dict(trainer.model.named_parameters()) for trainer in (quick, plain))
    moved = {n: v for n, v in expected.items() if v.requires_grad and "key.bias" not in n}  # theirs is rounding alone
    torch.testing.assert_close({n: found[n] for n in moved}, moved, rtol=1e-3, atol=1e-5)
    start = dict(load_classifier(str(model)).named_parameters())
    assert max((moved[n] - start[n]).abs().max() for n in moved if "bert" in n) > 1e-3


@pytest.mark.parametrize("padding", [0, 3, 7])
def test_a_smaller_table_gives_the_same_logits_and_gradients_and_goes_back_whole(padding):
    """Whether the row of padding is the first one, another one, or not there; it gets no gradient."""
    plain, batch = speed_up(small_bert(pad_token_id=padding)), padded_batch()
    rows = batch["input_ids"].unique()
    assert rows[:7].tolist() == [0, 1, 3, 4, 5, 6, 9]
    start, small = plain.state_dict(), shrink_vocabulary(copy.deepcopy(plain), rows)
    for model in (plain, small):
        model(**batch).loss.backward()
    found, expected = gradients(small), gradients(plain)
    table = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(found.pop(table), expected.pop(table)[rows])
    torch.testing.assert_close(found, expected)
    small.bert.embeddings.word_embeddings.weight.data += 1
    again = expand_vocabulary(small).state_dict()
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in start.items()}
    moved = (again[table] != start[table]).any(1).nonzero().flatten()
    assert torch.equal(moved, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (200, 300)])
def test_quick_dropout_zeroes_the_share_it_should_and_keeps_the_mean(dtype, shape):
    set_seed(0)
    layer = QuickDropout(0.1).train()
    numbers = torch.ones(shape, dtype=dtype, requires_grad=True)
    dropped = layer(numbers)
    dropped.sum().backward()
    assert dropped.dtype == dtype and dropped.shape == shape
    kept = dropped[dropped != 0].detach()
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.9), rtol=1e-2, atol=0)
    assert torch.equal(numbers.grad, dropped.detach())
    if numbers.numel() > 10_000:
        assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
        assert dropped.float().mean().item() == pytest.approx(1, abs=0.01)


def test_quick_dropout_repeats_with_the_seed_and_differs_between_calls():
    layer, numbers = QuickDropout(0.5).train(), torch.ones(1000)
    set_seed(1)
    first, second = layer(numbers), layer(numbers)
    set_seed(1)
    assert torch.equal(layer(numbers), first) and not torch.equal(first, second)
    assert torch.equal(layer.eval()(numbers), numbers)


def test_dropout_acts_in_training_and_not_in_evaluation():
    model, batch = speed_up(small_bert(dropout=0.1)), padded_batch()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)
    assert torch.equal(model.eval()(**batch).logits, model(**batch).logits)


def test_under_bfloat16_the_logits_stay_close():
    plain, batch = small_bert().float(), padded_batch()
    quick = speed_up(copy.deepcopy(plain))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quick(**batch).logits
    torch.testing.assert_close(found.float(), plain(**batch).logits, rtol=0.05, atol=0.2)
