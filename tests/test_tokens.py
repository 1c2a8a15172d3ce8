"""What BERT is given: exact ids, tables, the explorer's answers, and what hiding a word does (as in notebook 04)."""

from pathlib import Path

import nbformat
import pytest
import torch
from conftest import SMALL
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from helpers.settings import OFFLINE
from helpers.tokens import explore, show_tokens, token_table

SENTENCES = ["Hello world!", "How are you?"]
LONG = "the film is long " * 200


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast.from_pretrained(str(OFFLINE / "checkpoint"), model_max_length=512)


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(3463)
    config = BertConfig(**SMALL, initializer_range=0.2)  # the usual 0.02 makes attention almost uniform
    return BertForSequenceClassification(config).eval()


def test_two_sentences_have_the_published_ids_and_a_pair_is_one_row_with_two_segments(tokenizer):
    encoded = tokenizer(SENTENCES, padding=True)
    assert encoded["input_ids"] == [[101, 7592, 2088, 999, 102, 0], [101, 2129, 2024, 2017, 1029, 102]]
    assert encoded["token_type_ids"] == [[0] * 6, [0] * 6]
    assert encoded["attention_mask"] == [[1, 1, 1, 1, 1, 0], [1] * 6]
    encoded = tokenizer(*SENTENCES)
    assert encoded["input_ids"] == [101, 7592, 2088, 999, 102, 2129, 2024, 2017, 1029, 102]
    assert encoded["token_type_ids"] == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("text", "pair", "length"), [(LONG, None, 3), (LONG, None, 512), (LONG, "Short.", 16), (LONG[:340], LONG[:340], 5)]
)
def test_truncation_keeps_every_separator_and_warns_of_nothing(tokenizer, capfd, text, pair, length):
    table = token_table(tokenizer, text, pair, max_length=length)
    assert len(table) == length
    assert table["token"].iloc[0] == "[CLS]"
    assert table["token"].iloc[-1] == "[SEP]"
    assert (table["token"] == "[SEP]").sum() == (1 if pair is None else 2)
    assert capfd.readouterr().err == ""


def test_the_table_names_pieces_special_tokens_and_padding(tokenizer):
    table = token_table(tokenizer, "Unwatchable 🎬", max_length=8, padding="max_length")
    assert list(table.columns) == ["position", "token", "input_ids", "token_type_ids", "attention_mask", "kind"]
    assert table["position"].tolist() == list(range(8))
    assert table["token"].tolist() == ["[CLS]", "un", "##watch", "##able", "[UNK]", "[SEP]", "[PAD]", "[PAD]"]
    assert table["kind"].tolist() == ["special", "word", "## piece", "## piece", "special", "special"] + ["padding"] * 2


def test_a_table_is_shown_in_colours_and_as_plain_text_the_same_every_time_with_its_tokens_escaped(tokenizer, shown):
    for _ in range(2):
        show_tokens(token_table(tokenizer, "<b>Good & bad"))
    assert shown[0] == shown[1]
    text, plain = shown[0]["text/html"], shown[0]["text/plain"]
    assert "td.special" in text and "&lt;" in text and "&amp;" in text and "<b>" not in text
    assert plain.splitlines()[2].split() == ["1", "<", "1026", "0", "1", "word"]


def show_input(tokenizer, monkeypatch, **fields) -> dict[str, str]:
    """What the explorer shows once these fields are filled in."""
    drawn = {"text": "Unwatchable? Hardly!", "pair": "", "max_length": 12, "padding": "max_length"} | fields
    shown = []
    monkeypatch.setattr("helpers.tokens.interact", lambda draw, **controls: shown.append(draw(**drawn)))
    explore(tokenizer)
    return shown[0]


def test_an_input_is_shown_with_its_counts(tokenizer, monkeypatch):
    pair = {"text": "An unwatchable film.", "pair": "Why?"}
    bundle = show_input(tokenizer, monkeypatch, **pair, padding="do_not_pad")
    assert "Nothing was cut off" in bundle["text/html"] and "##watch" in bundle["text/html"]
    expected = token_table(tokenizer, *pair.values(), max_length=12).to_string(index=False)
    assert bundle["text/plain"].endswith(expected)
    assert "3 tokens were cut off" in show_input(tokenizer, monkeypatch, **pair, max_length=8)["text/plain"]


@pytest.mark.parametrize(
    ("text", "pair", "length", "words"),
    [
        ("", "", 12, "empty"),
        (" \u200b ", "", 12, "empty"),
        ("Good.", "\u200b", 12, "second text is empty"),
        ("Good.", "", 2, "must be between 3"),
        ("Good.", "", -1, "must be between 3"),
        ("Good.", "Bad.", 4, "must be between 5"),
        ("Good.", "", 513, "and 512"),
        (LONG, "", 12, "Longer than allowed: 790 tokens were cut off"),
    ],
)
def test_bad_input_gets_a_sentence_in_place_of_the_table(tokenizer, monkeypatch, capfd, text, pair, length, words):
    bundle = show_input(tokenizer, monkeypatch, text=text, pair=pair, max_length=length)
    assert words in bundle["text/html"] and words in bundle["text/plain"]
    assert ("<table" in bundle["text/html"]) == ("cut off" in words)
    assert capfd.readouterr().err == ""


def test_the_explorer_shows_its_first_table_where_there_is_no_kernel(tokenizer, shown):
    assert explore(tokenizer) is None and explore(tokenizer) is None
    assert len(shown) == 2 and shown[0] == shown[1]
    assert all(f"td.{name}" in shown[0]["text/html"] for name in ("special", "word", "piece", "padding"))


def test_a_words_effect_is_that_of_hiding_all_its_pieces(tokenizer, model):
    notebook = nbformat.read(Path(__file__).parents[1] / "notebooks" / "04_test_and_report.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.id == "misled-measure"]
    exec(cell.source, given := {})
    text = "Unwatchable? Hardly!"
    effects = given["measure_effects"](model, tokenizer, text)
    assert list(effects.index) == ["unwatchable", "?", "hardly", "!"]
    inputs = tokenizer(text, return_tensors="pt")
    pieces = len(tokenizer.tokenize("unwatchable"))
    assert pieces > 1

    def log_odds(mask):
        with torch.no_grad():
            logits = model(**{**inputs, "attention_mask": mask}).logits[0]
        return float(logits[1] - logits[0])

    hidden = inputs["attention_mask"].clone()
    hidden[0, 1 : 1 + pieces] = 0
    assert effects["unwatchable"] == pytest.approx(log_odds(inputs["attention_mask"]) - log_odds(hidden), abs=1e-5)
    assert abs(effects["unwatchable"]) > 1e-3
