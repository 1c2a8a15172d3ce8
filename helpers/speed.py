"""The same training in less time: the computation changes, its results do not.

Everything here is for BERT classifiers, whose pooler reads only the hidden state of [CLS]. On a GPU, the library's own
attention and dropout are the fast ones, and are used.
"""

import types
from collections.abc import Iterator
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPooling

# Tokens in a micro-batch: few enough that most of its tensors fit into a CPU's cache, and a worker into 2 GB.
PART_TOKENS = 4096


def speed_up(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Replace the encoder's forward pass and dropout by faster versions with the same results; returns the same model.

    Padding is never computed: the tokens of all reviews form one tensor, (tokens, hidden), and only attention treats
    them review by review. Logits and gradients equal the plain model's up to rounding; dropout uses other random
    numbers, with the same probability (to 1 in 65,536). `last_hidden_state` is only that of [CLS], (batch, 1, hidden).
    """
    model.bert.forward = types.MethodType(_forward, model.bert)
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = QuickDropout
    return model


def shrink_vocabulary(model: BertForSequenceClassification, rows: torch.Tensor) -> BertForSequenceClassification:
    """Keep only those word embeddings that occur: `rows`, (rows,), are their ids, ascending; returns the same model.

    The others get no gradient, so without weight decay they never change; yet updating them takes a third of a small
    step. The model must come from `speed_up`.
    """
    embeddings = model.bert.embeddings
    table = embeddings.word_embeddings
    weight, frozen = table.weight.detach()[rows], not table.weight.requires_grad
    padding = rows.tolist().index(table.padding_idx) if table.padding_idx in rows.tolist() else None
    small = nn.Embedding.from_pretrained(weight, freeze=frozen, padding_idx=padding)  # Uses no random numbers.
    numbers = torch.zeros(table.num_embeddings, dtype=torch.long)
    numbers[rows] = torch.arange(len(rows))
    embeddings.word_embeddings = small
    model.bert.register_buffer("row_numbers", numbers, persistent=False)
    model.bert.whole_table = (rows, table)  # A tuple hides the table from the optimizer and from checkpoints.
    return model


def expand_vocabulary(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Copy the trained word embeddings back into the full table, if it was shrunk; returns the same model."""
    if not hasattr(model.bert, "whole_table"):
        return model
    rows, table = vars(model.bert).pop("whole_table")
    small = model.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        table.weight[rows] = small.to(table.weight.device)
    model.bert.embeddings.word_embeddings = table
    model.bert.row_numbers = None
    return model


def split_batch(
    batch: dict[str, torch.Tensor], tokens: int = PART_TOKENS
) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Split a padded batch into micro-batches of at most `tokens` tokens without padding, longest reviews first.

    A longer review makes a micro-batch of its own. Yields the row numbers, (reviews,), and the micro-batch, padded to
    its own longest review.
    """
    lengths = batch["attention_mask"].sum(1)
    rows = lengths.argsort(descending=True, stable=True)
    while len(rows):
        longest = int(lengths[rows[0]])
        size = max(1, int((lengths[rows].cumsum(0) <= tokens).sum()))
        part, rows = rows[:size], rows[size:]
        cut = {name: values[part, :longest] if values.ndim == 2 else values[part] for name, values in batch.items()}
        yield part, cut


class QuickDropout(nn.Dropout):
    """Dropout with 16 random bits per element: PyTorch's own takes a fifth of a training step on a CPU."""

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


def _forward(bert, input_ids, attention_mask=None, token_type_ids=None, **kwargs):
    """`BertModel.forward` without padding, and with only the last hidden state of [CLS]."""
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    ids = input_ids[mask]
    if getattr(bert, "row_numbers", None) is not None:
        ids = bert.row_numbers[ids]
    states = bert.embeddings(ids[None], segments[mask][None], positions[mask][None])[0]
    *layers, last = bert.encoder.layer
    for layer in layers:
        context = _attend(layer.attention.self, states, mask)
        states = layer.feed_forward_chunk(layer.attention.output(context, states))
    cls = _forward_cls(last, _pad(states, mask), mask)
    return BaseModelOutputWithPooling(last_hidden_state=cls, pooler_output=bert.pooler(cls))


def _pad(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Arrange (tokens, ...) as (batch, longest, ...), with zeros where the mask is False."""
    padded = tokens.new_zeros(*mask.shape, *tokens.shape[1:])
    padded[mask] = tokens
    return padded


def _attend(attention, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`BertSelfAttention.forward` for (tokens, hidden)."""
    layers = (attention.query, attention.key, attention.value)
    projected = [layer(states).unflatten(-1, (attention.num_attention_heads, -1)) for layer in layers]
    mix = _mix_padded if mask.is_cuda else _mix
    return mix(attention, *projected, mask).flatten(1)


def _mix_padded(attention, query, key, value, mask: torch.Tensor) -> torch.Tensor:
    """Attention over (tokens, heads, head), of all reviews in one fused product."""
    padded = [_pad(tokens, mask).transpose(1, 2) for tokens in (query, key, value)]
    dropout = attention.dropout.p if attention.training else 0.0
    context = F.scaled_dot_product_attention(*padded, mask[:, None, None], dropout_p=dropout)
    return context.transpose(1, 2)[mask]


def _mix(attention, query, key, value, mask: torch.Tensor) -> torch.Tensor:
    """The same in plain products, without padding: adjacent reviews of the same length share them."""
    lengths = [(length, len([*same])) for length, same in groupby(mask.sum(1).tolist())]
    sizes = [length * count for length, count in lengths]
    parts = (tokens.transpose(0, 1).split(sizes, 1) for tokens in (query * attention.scaling, key, value))
    contexts = []
    for (length, _), *group in zip(lengths, *parts, strict=True):
        query, key, value = (tokens.reshape(-1, length, tokens.shape[-1]) for tokens in group)  # heads x reviews first
        weights = attention.dropout(torch.bmm(query, key.transpose(1, 2)).softmax(-1))
        contexts.append(torch.bmm(weights, value).view_as(group[0]))
    return torch.cat(contexts, 1).transpose(0, 1)


def _forward_cls(layer, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`BertLayer.forward` for [CLS] only, without computing keys and values for the tokens.

    With one query q per head, the score of token x is q (K x + b) = (q K) x + q b, and the context is
    V (sum of p x) + (sum of p) b: two matrix products per review instead of two per token.
    """
    attention = layer.attention.self
    cls = hidden_states[:, :1]

    def heads(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.unflatten(0, (attention.num_attention_heads, -1))

    query = attention.query(cls).unflatten(-1, (attention.num_attention_heads, -1)).squeeze(1)
    reach = torch.einsum("bhd,hdc->bhc", query, heads(attention.key.weight))
    constant = (query * heads(attention.key.bias)).sum(-1, keepdim=True)
    scores = (torch.bmm(reach, hidden_states.transpose(1, 2)) + constant) * attention.scaling
    weights = attention.dropout(scores.masked_fill(~mask[:, None], -1e9).softmax(-1))
    mixture = torch.bmm(weights, hidden_states)
    context = torch.einsum("bhc,hdc->bhd", mixture, heads(attention.value.weight))
    context = context + weights.sum(-1, keepdim=True) * heads(attention.value.bias)
    return layer.feed_forward_chunk(layer.attention.output(context.flatten(1).unsqueeze(1), cls))
