"""The quick forms give what the plain model gives."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, set_seed

from helpers.speed import skip_unused_states


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [True, False])
def test_logits_and_gradients_are_the_plain_models(attention, padded):
    set_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )
    plain = BertForSequenceClassification(config).train()
    quick = skip_unused_states(copy.deepcopy(plain))
    ids = torch.randint(1, 50, (4, 9))
    mask = torch.ones_like(ids)
    if padded:
        mask[1:, 5:] = 0
    for model in (plain, quick):
        model(ids, attention_mask=mask, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
    torch.testing.assert_close(quick(ids, attention_mask=mask).logits, plain(ids, attention_mask=mask).logits)
    gradients = [dict((n, p.grad) for n, p in model.named_parameters()) for model in (plain, quick)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0]["classifier.weight"].abs().max() > 0


def test_dropout_still_acts_in_training_and_not_in_evaluation():
    set_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = skip_unused_states(BertForSequenceClassification(config))
    ids = torch.randint(1, 50, (4, 9))
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)
