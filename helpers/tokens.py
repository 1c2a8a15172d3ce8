"""What BERT is given: token ids, segments and mask as a table, an explorer, and measurements of what they do."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ipywidgets as widgets
import pandas as pd
from IPython.display import display
from pandas.io.formats.style import Styler

from helpers.progress import interact

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

MAX_POSITIONS = 512  # BERT's table of position embeddings has 512 rows
PADDINGS = ("do_not_pad", "longest", "max_length")
INK = "#1a1a1a"
COLOURS = {"special": "#f6c67a", "word": "#f2f2f2", "## piece": "#9bd0f5", "padding": "#b3b3b3"}
CARD = f'<p style="background: {{}}; color: {INK}; padding: 0.4em 0.8em; max-width: 46em; line-height: 1.4">{{}}</p>'


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    texts: str | list[str],
    pairs: str | list[str] | None = None,
    max_length: int = MAX_POSITIONS,
    padding: str = "longest",
) -> "BatchEncoding":
    """Turn texts, or pairs of texts, into the three tensors BERT is given, each of shape (texts, tokens).

    ValueError for an empty text, a length BERT does not have, or rows of different lengths without padding.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    pairs = [pairs] if isinstance(pairs, str) else pairs
    if not texts:
        raise ValueError("There is no text to encode: give at least one.")
    if pairs and len(pairs) != len(texts):
        raise ValueError(f"{len(texts)} first texts, but {len(pairs)} second texts: give one for each.")
    for text, pair in zip(texts, pairs or [None] * len(texts), strict=True):
        _check_request(tokenizer, text, pair, max_length, padding)
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, padding=padding)
    if len({len(row) for row in encoded["input_ids"]}) > 1:
        raise ValueError("The texts differ in length, so they fit no rectangular tensor: choose padding='longest'.")
    return encoded.convert_to_tensors("pt")


def token_table(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    pair: str | None = None,
    max_length: int | None = None,
    padding: str = "do_not_pad",
) -> pd.DataFrame:
    """List what BERT is given for one text or pair, a row a token; max_length None means BERT's 512.

    The column `kind` says special, word, ## piece (continues the word before it) or padding.
    """
    limit = MAX_POSITIONS if max_length is None else max_length
    _check_request(tokenizer, text, pair, limit, padding)
    encoded = tokenizer(text, pair, truncation=True, max_length=limit, padding=padding)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    table = pd.DataFrame({"position": range(len(tokens)), "token": tokens})
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        table[name] = encoded[name]
    named = zip(tokens, encoded["attention_mask"], strict=True)
    table["kind"] = [_name_kind(token, mask, tokenizer.all_special_tokens) for token, mask in named]
    return table


def style_table(table: pd.DataFrame) -> Styler:
    """Colour a token table by kind; ink and background are both set, so it reads the same in light and dark themes.

    The rules hang on classes, not on cells, and the id is fixed: the same table always gives the same HTML.
    """
    rules = [
        {"selector": "", "props": "border-collapse: collapse; line-height: 1.4"},
        {"selector": "th, td", "props": "padding: 0.2em 0.8em; text-align: right; border: 1px solid #8c8c8c"},
        {"selector": "th", "props": "background-color: #404040; color: #ffffff"},
    ]
    for kind, colour in COLOURS.items():
        rules.append({"selector": f"td.{_name_class(kind)}", "props": f"background-color: {colour}; color: {INK}"})
    classes = table.apply(lambda row: [_name_class(row["kind"])] * len(row), axis=1, result_type="expand")
    classes.columns = table.columns
    styler = Styler(table, uuid="tokens", cell_ids=False).hide(axis="index").format(escape="html")
    return styler.set_table_styles(rules).set_td_classes(classes)


def show_tokens(table: pd.DataFrame) -> None:
    """Display a token table: coloured where HTML is shown, plain text elsewhere, the same at every run."""
    bundle = {"text/html": style_table(table).to_html(), "text/plain": table.to_string(index=False)}
    display(bundle, raw=True)


def show_input(
    tokenizer: "PreTrainedTokenizerBase", text: str, pair: str = "", max_length: int = 12, padding: str = "max_length"
) -> None:
    """Display what BERT is given for a text, or a pair where `pair` is not empty, as `show_tokens` does.

    Above it one line counts the tokens; for an input that BERT cannot be given, a sentence stands in the table's place.
    """
    display(_draw_input(tokenizer, text, pair, max_length, padding), raw=True)


def explore(tokenizer: "PreTrainedTokenizerBase", text: str = "Unwatchable? Hardly!", pair: str = "") -> None:
    """Show `show_input` below fields for its arguments; without a kernel, what it shows first."""
    style, wide = {"description_width": "10em"}, {"width": "40em", "max_width": "100%"}
    options = [("none", "do_not_pad"), ("to the maximum length", "max_length")]
    controls = {
        "text": widgets.Text(text, description="Text", style=style, layout=wide),
        "pair": widgets.Text(pair, description="Second text", placeholder="none", style=style, layout=wide),
        "max_length": widgets.IntText(12, description="Maximum length", style=style),
        "padding": widgets.Dropdown(options=options, value="max_length", description="Padding", style=style),
    }
    static = _draw_input(tokenizer, text, pair, 12, "max_length")
    interact(lambda **request: show_input(tokenizer, **request), static, controls, height="30em")


def _draw_input(
    tokenizer: "PreTrainedTokenizerBase", text: str, pair: str, max_length: int, padding: str
) -> dict[str, str]:
    """What `show_input` displays, as HTML and as plain text."""
    second = pair if pair.strip() else None
    try:
        table = token_table(tokenizer, text, second, max_length, padding)
    except ValueError as problem:
        return {"text/html": CARD.format(COLOURS["special"], html.escape(str(problem))), "text/plain": str(problem)}
    special = tokenizer.num_special_tokens_to_add(second is not None)
    needed = special + sum(_count_tokens(tokenizer, part) for part in (text, second or ""))
    message = _describe(table, needed - int(table["attention_mask"].sum()), paired=second is not None)
    return {
        "text/html": CARD.format(COLOURS["word"], message) + style_table(table).to_html(),
        "text/plain": f"{message}\n{table.to_string(index=False)}",
    }


def sum_embeddings(model: "PreTrainedModel", inputs: "BatchEncoding", use_positions: bool = True) -> "torch.Tensor":
    """Add the word, segment and position vectors by hand and layer-normalise: (texts, tokens, hidden).

    Devlin et al. 2019, section 3.2 and figure 2; the normalisation is in the authors' code, not in the figure.
    """
    import torch

    with _at_rest(model) as encoder:
        layer, ids = encoder.embeddings, inputs["input_ids"]
        total = layer.word_embeddings(ids) + layer.token_type_embeddings(inputs["token_type_ids"])
        if use_positions:
            total = total + layer.position_embeddings(torch.arange(ids.shape[1], device=ids.device))
        return layer.LayerNorm(total)


def compute_cls(
    model: "PreTrainedModel", inputs: "BatchEncoding", use_mask: bool = True, use_positions: bool = True
) -> "torch.Tensor":
    """Compute the last layer's [CLS] vectors: (texts, hidden); without positions every token stands at position 0."""
    import torch

    ids = inputs["input_ids"]
    mask = inputs["attention_mask"] if use_mask else torch.ones_like(ids)
    positions = None if use_positions else torch.zeros_like(ids)
    with _at_rest(model) as encoder:
        output = encoder(
            input_ids=ids, attention_mask=mask, token_type_ids=inputs["token_type_ids"], position_ids=positions
        )
        return output.last_hidden_state[:, 0]


def measure_cls_shift(
    model: "PreTrainedModel", inputs: "BatchEncoding", row: int, position: int, new_id: int, use_mask: bool = True
) -> float:
    """Replace one token's id and measure how far that text's [CLS] vector moves: the largest absolute difference."""
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][row, position] = new_id
    difference = compute_cls(model, changed, use_mask) - compute_cls(model, inputs, use_mask)
    return difference[row].abs().max().item()


def compute_attention(model: "PreTrainedModel", inputs: "BatchEncoding") -> "torch.Tensor":
    """Compute every attention weight: (layers, texts, heads, queries, keys); each query's weights sum to 1."""
    import torch

    with _at_rest(model) as encoder:
        chosen = encoder.config._attn_implementation
        encoder.set_attn_implementation("eager")  # the fused kernels never hold the weights
        try:
            return torch.stack(encoder(**inputs, output_attentions=True).attentions)
        finally:
            encoder.set_attn_implementation(chosen)


def measure_word_effects(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", text: str, batch_size: int = 32
) -> pd.Series:
    """Hide one word at a time with the attention mask; returns by how much each of them raises the log-odds of label 1.

    `model` is a classifier with two labels. The words, with all their pieces, are the index, in the order of the text.
    """
    import torch

    encoded = encode(tokenizer, text)
    words: dict[int, str] = {}
    of_token = []
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])[1:-1], 1):
        first = of_token[-1] if of_token and token.startswith("##") else place
        words[first] = words.get(first, "") + token.removeprefix("##")
        of_token.append(first)
    shown = torch.tensor([0, *of_token, 0]) != torch.tensor([-1, *words])[:, None]  # The first row hides nothing.
    odds = []
    with _at_rest(model):
        for part in shown.long().split(batch_size):
            rows = {name: encoded[name].expand(len(part), -1) for name in ("input_ids", "token_type_ids")}
            logits = model(**rows, attention_mask=part).logits
            odds.append(logits[:, 1] - logits[:, 0])
    whole, *without = torch.cat(odds).tolist()
    return pd.Series([whole - value for value in without], index=list(words.values()), name="effect on the log-odds")


@contextmanager
def _at_rest(model: "PreTrainedModel") -> "Iterator[PreTrainedModel]":
    """Give the encoder under any head, without dropout and gradients; afterwards the model is as it was."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model.base_model
    finally:
        model.train(training)


def _check_request(
    tokenizer: "PreTrainedTokenizerBase", text: str, pair: str | None, max_length: int, padding: str
) -> None:
    for name, value in {"first": text, "second": "." if pair is None else pair}.items():
        if not isinstance(value, str) or not _count_tokens(tokenizer, value):
            raise ValueError(f"The {name} text is empty, so it gives no token: type at least one word.")
    if padding not in PADDINGS:
        raise ValueError(f"Unknown padding {padding!r}: choose one of {', '.join(PADDINGS)}.")
    shortest, parts = (3, "[CLS], one token and [SEP]") if pair is None else (5, "[CLS], two tokens and two [SEP]")
    if max_length < shortest:
        raise ValueError(f"A maximum length of {max_length} is too short: {parts} need at least {shortest}.")
    if max_length > MAX_POSITIONS:
        raise ValueError(
            f"A maximum length of {max_length} is too long: BERT has only {MAX_POSITIONS} position embeddings."
        )


def _count_tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> int:
    """Count without [CLS] and [SEP], and without the tokenizer's warning about texts past its limit."""
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _name_kind(token: str, mask: int, special: list[str]) -> str:
    if not mask:
        return "padding"
    if token in special:
        return "special"
    return "## piece" if token.startswith("##") else "word"


def _name_class(kind: str) -> str:
    return kind.strip("# ")


def _describe(table: pd.DataFrame, cut: int, paired: bool) -> str:
    counts = table["kind"].value_counts()
    parts = ", ".join(f"{kind} {counts[kind]}" for kind in COLOURS if kind in counts)
    fate = "Nothing was cut off."
    if cut:
        where = "the ends, the longer text's first" if paired else "the end"
        fate = f"Longer than allowed: {cut} tokens were cut off {where}; [SEP] was kept."
    return f"{len(table)} tokens: {parts}. {fate}"
