"""The offline sample reviews: what the data card promises, measured on the committed files."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import BertTokenizerFast

REVIEWS = ROOT / "helpers" / "offline" / "reviews"
ROWS = {"train": 2500, "test": 1000}


@pytest.fixture(scope="module")
def splits() -> dict[str, pd.DataFrame]:
    return {split: pd.read_csv(REVIEWS / f"{split}.csv") for split in ROWS}


def vocabulary(frame: pd.DataFrame) -> set[str]:
    return set(re.findall(r"[a-z']+", " ".join(frame["text"]).lower()))


def test_script_reproduces_the_committed_files(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts" / "write_reviews.py", "--out", tmp_path / "new"], check=True)
    for split in ROWS:
        assert (tmp_path / "new" / f"{split}.csv").read_bytes() == (REVIEWS / f"{split}.csv").read_bytes(), split


@pytest.mark.parametrize("split", ROWS)
def test_rows_are_balanced_short_and_clean(splits, split):
    frame, half = splits[split], ROWS[split] // 2
    assert list(frame.columns) == ["text", "label"]
    assert frame["label"].value_counts().to_dict() == {0: half, 1: half}
    assert 0.45 < frame["label"].head(half).mean() < 0.55, "not shuffled"
    tokenizer = BertTokenizerFast.from_pretrained(ROOT / "helpers" / "offline" / "checkpoint")
    tokens = [len(ids) for ids in tokenizer(frame["text"].tolist())["input_ids"]]
    assert max(tokens) <= 60 and sum(tokens) / len(tokens) <= 22, "too long for forty runs in five minutes"
    for text in frame["text"]:
        assert 6 <= len(text.split()) <= 30 and text.isascii(), text
        assert text[0].isupper() and text[-1] in ".!?", text
        assert not re.search(r"[{}]|  | [,.;:!?]|[.?!] [a-z]", text), text
        assert not re.search(r"\b[Aa] [aeioAEIO](?!ne\b)|\b[Aa]n (?!hour)[^aeiouAEIOU]", text), text
        assert not re.search(r"\b(\w+) \1\b", text), text


def test_no_text_is_there_twice_and_part_of_the_test_vocabulary_is_unseen(splits):
    assert not pd.concat(splits.values())["text"].str.lower().duplicated().any()
    train, test = vocabulary(splits["train"]), vocabulary(splits["test"])
    assert len(test - train) / len(test) > 0.2
    unseen = [bool(vocabulary(splits["test"].iloc[[row]]) - train) for row in range(ROWS["test"])]
    assert sum(unseen) / len(unseen) > 0.8


@pytest.mark.parametrize("features", [{"ngram_range": (1, 2), "min_df": 2}, {}], ids=["unigrams+bigrams", "unigrams"])
def test_bag_of_words_is_not_enough(splits, features):
    vectorizer = TfidfVectorizer(**features)
    train, test = (vectorizer.fit_transform(splits["train"]["text"]), vectorizer.transform(splits["test"]["text"]))
    accuracy = (
        LogisticRegression(max_iter=1000).fit(train, splits["train"]["label"]).score(test, splits["test"]["label"])
    )
    assert 0.6 < accuracy < 0.9
