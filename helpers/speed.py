"""The same training in less time: what is computed changes, what comes out does not.

Everything here is for BERT classifiers, whose pooler reads the state of [CLS] alone. On a GPU the library's own
attention and dropout are the quick ones, and only the last layer is replaced.
"""

import time
import types
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

# Tokens in a part of a batch: so few that its attention scores stay in a CPU's cache, and a worker under 2 GB.
PART_TOKENS = 4096


def speed_up(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Replace the model's attention and dropout by quicker forms with the same results; returns the same model.

    Logits and gradients are the plain model's up to rounding; dropout draws from other random numbers, with the same
    probability (to 1 in 65,536). `last_hidden_state` is then (batch, 1, hidden): only [CLS] gets a last state.
    """
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        layer.attention.self.forward = types.MethodType(_attend, layer.attention.self)
    last.forward = types.MethodType(_forward_cls, last)
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = QuickDropout
    return model


def split_batch(batch: dict[str, torch.Tensor], tokens: int = PART_TOKENS) -> Iterator[dict[str, torch.Tensor]]:
    """Cut a padded batch into parts of reviews of similar length, each padded to its own longest review only.

    A part has at most `tokens` tokens, or one review. Where nothing is padded its `attention_mask` is None.
    """
    lengths = batch["attention_mask"].sum(1)
    rows = lengths.argsort(descending=True, stable=True)
    while len(rows):
        longest = int(lengths[rows[0]])
        part, rows = rows.split([size := min(len(rows), max(1, tokens // longest)), len(rows) - size])
        cut = {name: values[part, :longest] if values.ndim == 2 else values[part] for name, values in batch.items()}
        yield cut | {"attention_mask": None if int(lengths[part[-1]]) == longest else cut["attention_mask"]}


def has_fast_bf16() -> bool:
    """Whether bfloat16 is worth using: on a GPU that has it, or a CPU on which its products are measured as faster."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(4):
            started = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < 0.67 * seconds[torch.float32]


class QuickDropout(nn.Dropout):
    """Dropout with 16 random bits a number: PyTorch's own takes a fifth of a training step on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return input
        if input.device.type != "cpu":
            return super().forward(input)
        dropped = round(self.p * 2**16)
        random = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        random = random.view(torch.int16)[: input.numel()].view(input.shape)
        kept = torch.ge(random, dropped - 2**15, out=torch.empty_like(input, memory_format=torch.contiguous_format))
        return input * kept.mul_(2**16 / (2**16 - dropped))


def _attend(attention, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *args, **kwargs):
    """`BertSelfAttention.forward`: fused where there is no dropout, else without the fused kernel's detours."""

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    query, key, value = (heads(layer(hidden_states)) for layer in (attention.query, attention.key, attention.value))
    drops = attention.training and attention.dropout.p > 0
    if not drops or hidden_states.device.type != "cpu":
        context = F.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout_p=attention.dropout.p if drops else 0.0
        )
    else:
        query, key, value = (states.flatten(0, 1) for states in (query, key, value))
        bias = query.new_zeros(1, 1, 1)
        if attention_mask is not None:
            bias = _bias(attention_mask, query.dtype).repeat_interleave(attention.num_attention_heads, 0)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=attention.scaling)
        context = torch.bmm(attention.dropout(scores.softmax(-1)), value)
        context = context.unflatten(0, (-1, attention.num_attention_heads))
    return context.transpose(1, 2).flatten(2), None


def _forward_cls(layer, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *args, **kwargs):
    """`BertLayer.forward` for [CLS] alone, without a key or a value for any token.

    With one query q a head, the score of token x is q (K x + b) = (q K) x + q b, and the context is
    V (sum of p x) + (sum of p) b: two matrix products a review in place of two a token.
    """
    attention = layer.attention.self
    cls = hidden_states[:, :1]

    def heads(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.unflatten(0, (attention.num_attention_heads, -1))

    query = attention.query(cls).unflatten(-1, (attention.num_attention_heads, -1)).squeeze(1)
    reach = torch.einsum("bhd,hdc->bhc", query, heads(attention.key.weight))
    constant = (query * heads(attention.key.bias)).sum(-1, keepdim=True)
    scores = (torch.bmm(reach, hidden_states.transpose(1, 2)) + constant) * attention.scaling
    if attention_mask is not None:
        scores = scores + _bias(attention_mask, scores.dtype)
    weights = attention.dropout(scores.softmax(-1))
    mixture = torch.bmm(weights, hidden_states)
    context = torch.einsum("bhc,hdc->bhd", mixture, heads(attention.value.weight))
    context = context + weights.sum(-1, keepdim=True) * heads(attention.value.bias)
    return layer.feed_forward_chunk(layer.attention.output(context.flatten(1).unsqueeze(1), cls))


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What to add to the scores, (batch, 1, tokens): padding is hidden from every query alike."""
    mask = mask[:, 0, :1]
    return mask if mask.is_floating_point() else torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -1e9)
