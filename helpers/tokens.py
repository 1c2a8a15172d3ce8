"""BERT's inputs: token ids, segments and mask as a table, an explorer, and measurements of their effects."""

import html
from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from pandas.io.formats.style import Styler
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from helpers.progress import interact

MAX_POSITIONS = 512  # BERT's table of position embeddings has 512 rows
INK = "#1a1a1a"
COLOURS = {"special": "#f6c67a", "word": "#f2f2f2", "## piece": "#9bd0f5", "padding": "#b3b3b3"}
CARD = f'<p style="background: {{}}; color: {INK}; padding: 0.4em 0.8em; max-width: 46em; line-height: 1.4">{{}}</p>'


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: str | list[str], pairs: str | list[str] | None = None
) -> BatchEncoding:
    """Turn texts, or pairs of texts, into BERT's three input tensors, each of shape (texts, tokens).

    Shorter rows are padded to the longest one. Raises ValueError for an empty text.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    pairs = [pairs] if isinstance(pairs, str) else pairs
    if not texts:
        raise ValueError("There is no text to encode: give at least one.")
    _check_texts(tokenizer, first=texts, second=pairs or [])
    return tokenizer(texts, pairs, truncation=True, max_length=MAX_POSITIONS, padding="longest", return_tensors="pt")


def token_table(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    pair: str | None = None,
    max_length: int = MAX_POSITIONS,
    padding: str = "do_not_pad",
) -> pd.DataFrame:
    """Show BERT's input for one text or pair, one row per token; padding `max_length` fills up to that many rows.

    The column `kind` is special, word, ## piece (continues the word before it) or padding. Raises ValueError for an
    empty text or an impossible length.
    """
    _check_texts(tokenizer, first=[text], second=[] if pair is None else [pair])
    least = 3 if pair is None else 5  # [CLS], and for each text one token and its [SEP]
    if not least <= max_length <= MAX_POSITIONS:
        raise ValueError(
            f"The maximum length must be between {least} (a token of each text, [CLS] and [SEP]) and {MAX_POSITIONS}"
            f" (BERT has no more position embeddings), but it is {max_length}."
        )
    encoded = tokenizer(text, pair, truncation=True, max_length=max_length, padding=padding)
    table = pd.DataFrame({"token": tokenizer.convert_ids_to_tokens(encoded["input_ids"]), **encoded})
    table.insert(0, "position", range(len(table)))
    is_special, is_piece = table["token"].isin(tokenizer.all_special_tokens), table["token"].str.startswith("##")
    conditions = [table["attention_mask"] == 0, is_special, is_piece]
    table["kind"] = np.select(conditions, ["padding", "special", "## piece"], "word")
    return table


def _check_texts(tokenizer: PreTrainedTokenizerBase, **texts: list[str]) -> None:
    for name, values in texts.items():
        for value in values:
            if not isinstance(value, str) or not tokenizer(value, add_special_tokens=False, verbose=False)["input_ids"]:
                raise ValueError(f"The {name} text is empty, so it has no tokens: type at least one word.")


def show_tokens(table: pd.DataFrame) -> None:
    """Display a token table: in colour where HTML is shown, else as plain text, with the same output in every run."""
    display(_draw_table(table), raw=True)


def explore(tokenizer: PreTrainedTokenizerBase) -> None:
    """Show the token table of a text or a pair, below input fields for the arguments of `token_table`.

    A line counts the tokens; for an input that BERT cannot take, a sentence says why.
    """

    def draw(text: str, pair: str, max_length: int, padding: str) -> dict[str, str]:
        second = pair if pair.strip() else None
        try:
            table = token_table(tokenizer, text, second, max_length, padding)
        except ValueError as problem:
            return {"text/html": CARD.format(COLOURS["special"], html.escape(str(problem))), "text/plain": str(problem)}
        counts = table["kind"].value_counts()
        message = f"{len(table)} tokens: {', '.join(f'{kind} {counts[kind]}' for kind in COLOURS if kind in counts)}. "
        needed = len(tokenizer(text, second, verbose=False)["input_ids"])  # Not verbose: without a warning past 512.
        if cut := needed - table["attention_mask"].sum():
            where = "the end" if second is None else "the ends, the longer text's first"
            message += f"Longer than allowed: {cut} tokens were cut off {where}; [SEP] was kept."
        else:
            message += "Nothing was cut off."
        above = {"text/html": CARD.format(COLOURS["word"], message), "text/plain": f"{message}\n"}
        return {kind: above[kind] + drawn for kind, drawn in _draw_table(table).items()}

    style, wide = {"description_width": "10em"}, {"width": "40em", "max_width": "100%"}
    options = [("none", "do_not_pad"), ("to the maximum length", "max_length")]
    interact(
        draw,
        height="30em",
        text=widgets.Text("Unwatchable? Hardly!", description="Text", style=style, layout=wide),
        pair=widgets.Text(description="Second text", placeholder="none", style=style, layout=wide),
        max_length=widgets.IntText(12, description="Maximum length", style=style),
        padding=widgets.Dropdown(options=options, value="max_length", description="Padding", style=style),
    )


def _draw_table(table: pd.DataFrame) -> dict[str, str]:
    """A token table as HTML and as plain text.

    Text and background colours are both set, so it looks the same in light and dark themes. The rules use classes, not
    cell ids, and the table's id is fixed: the same table always gives the same HTML.
    """
    rules = [
        {"selector": "", "props": "border-collapse: collapse; line-height: 1.4"},
        {"selector": "th, td", "props": "padding: 0.2em 0.8em; text-align: right; border: 1px solid #8c8c8c"},
        {"selector": "th", "props": "background-color: #404040; color: #ffffff"},
    ]
    for kind, colour in COLOURS.items():
        rules.append({"selector": f"td.{kind.strip('# ')}", "props": f"background-color: {colour}; color: {INK}"})
    classes = pd.DataFrame({name: table["kind"].str.strip("# ") for name in table})
    styler = Styler(table, uuid="tokens", cell_ids=False).hide(axis="index").format(escape="html")
    styler.set_table_styles(rules).set_td_classes(classes)
    return {"text/html": styler.to_html(), "text/plain": table.to_string(index=False)}


def sum_embeddings(model: PreTrainedModel, inputs: BatchEncoding, use_positions: bool = True) -> torch.Tensor:
    """Add the word, segment and position vectors by hand and layer-normalise: (texts, tokens, hidden).

    Devlin et al. 2019, section 3.2 and figure 2; the normalisation is in the authors' code, not in the figure.
    """
    with _at_rest(model) as encoder:
        layer, ids = encoder.embeddings, inputs["input_ids"]
        total = layer.word_embeddings(ids) + layer.token_type_embeddings(inputs["token_type_ids"])
        if use_positions:
            total = total + layer.position_embeddings(torch.arange(ids.shape[1], device=ids.device))
        return layer.LayerNorm(total)


def compute_cls(
    model: PreTrainedModel, inputs: BatchEncoding, use_mask: bool = True, use_positions: bool = True
) -> torch.Tensor:
    """Compute the last layer's [CLS] vectors: (texts, hidden); without positions every token stands at position 0."""
    changed = dict(inputs)
    if not use_mask:
        changed["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    if not use_positions:
        changed["position_ids"] = torch.zeros_like(inputs["input_ids"])
    with _at_rest(model) as encoder:
        return encoder(**changed).last_hidden_state[:, 0]


def measure_cls_shift(
    model: PreTrainedModel, inputs: BatchEncoding, row: int, position: int, new_id: int, use_mask: bool = True
) -> float:
    """Replace one token's id and measure how far that text's [CLS] vector moves: the largest absolute difference."""
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][row, position] = new_id
    difference = compute_cls(model, changed, use_mask) - compute_cls(model, inputs, use_mask)
    return difference[row].abs().max().item()


def compute_attention(model: PreTrainedModel, inputs: BatchEncoding) -> torch.Tensor:
    """Compute every attention weight: (layers, texts, heads, queries, keys); each query's weights sum to 1."""
    with _at_rest(model) as encoder:
        chosen = encoder.config._attn_implementation
        encoder.set_attn_implementation("eager")  # the fused kernels never hold the weights
        try:
            return torch.stack(encoder(**inputs, output_attentions=True).attentions)
        finally:
            encoder.set_attn_implementation(chosen)


def measure_word_effects(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, batch_size: int = 32
) -> pd.Series:
    """Mask one word at a time with the attention mask; returns how much each word raises the log-odds of label 1.

    `model` is a classifier with two labels. The index lists the words (all pieces joined) in the order of the text.
    """
    encoded = encode(tokenizer, text)
    pieces = pd.Series(tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])).str.removeprefix("##")
    of_word = pd.Series(encoded.word_ids())  # [CLS] and [SEP] belong to none.
    words = pieces.groupby(of_word).agg("".join)
    shown = torch.tensor([of_word.ne(hidden).tolist() for hidden in (-1, *words.index)])  # The first hides nothing.
    odds = []
    with _at_rest(model):
        for part in shown.long().split(batch_size):
            rows = {name: encoded[name].expand(len(part), -1) for name in ("input_ids", "token_type_ids")}
            logits = model(**rows, attention_mask=part).logits
            odds.append(logits[:, 1] - logits[:, 0])
    whole, *without = torch.cat(odds).tolist()
    return pd.Series([whole - value for value in without], index=list(words), name="effect on the log-odds")


@contextmanager
def _at_rest(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The encoder under any head, without dropout and gradients; afterwards the model is in its former mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model.base_model
    finally:
        model.train(training)
