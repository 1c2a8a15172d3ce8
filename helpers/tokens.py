"""BERT's inputs: token ids, segments and mask as a table and in an explorer."""

import html

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import display
from pandas.io.formats.style import Styler
from transformers import PreTrainedTokenizerBase

from helpers.progress import interact

MAX_POSITIONS = 512  # BERT's table of position embeddings has 512 rows
INK = "#1a1a1a"
COLOURS = {"special": "#f6c67a", "word": "#f2f2f2", "## piece": "#9bd0f5", "padding": "#b3b3b3"}
CARD = f'<p style="background: {{}}; color: {INK}; padding: 0.4em 0.8em; max-width: 46em; line-height: 1.4">{{}}</p>'


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
    texts = {"first": text} if pair is None else {"first": text, "second": pair}
    for name, value in texts.items():
        if not isinstance(value, str) or not tokenizer(value, add_special_tokens=False, verbose=False)["input_ids"]:
            raise ValueError(f"The {name} text is empty, so it has no tokens: type at least one word.")
    least = 1 + 2 * len(texts)  # [CLS], and for each text one token and its [SEP]
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
