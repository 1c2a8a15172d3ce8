"""The same training in less time: what is computed changes, what comes out does not."""

import types

import torch
from torch.nn import functional as F
from transformers import BertForSequenceClassification


def skip_unused_states(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Let the last layer compute the state of [CLS] alone, the only one that the pooler reads; returns the same model.

    Keys and values still come from every token, so the logits and the gradients are those of the plain model (up to
    rounding). In BERT-tiny this saves four tenths of the arithmetic. `last_hidden_state` is then (batch, 1, hidden).
    """
    last = model.bert.encoder.layer[-1]
    last.forward = types.MethodType(_cls_forward, last)
    return model


def _cls_forward(layer, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *args, **kwargs):
    attention = layer.attention.self
    cls = hidden_states[:, :1]

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    context = F.scaled_dot_product_attention(
        heads(attention.query(cls)),
        heads(attention.key(hidden_states)),
        heads(attention.value(hidden_states)),
        attn_mask=None if attention_mask is None else attention_mask[..., :1, :],
        dropout_p=attention.dropout.p if layer.training else 0.0,
    )
    return layer.feed_forward_chunk(layer.attention.output(context.transpose(1, 2).flatten(2), cls))
