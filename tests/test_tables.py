"""Tables of reviews as people's programs write them: the same texts come back, or an error that names the row."""

import csv
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.settings import CourseError
from helpers.tables import read_table

PIECES = ["Good film", "don't", "''", '"x"', '""', "\\\\", "\r\n", ", 0", "\n1,", *",;\t|\n'\""]
LETTERS = st.characters(codec="utf-8", exclude_characters="\0\r")
TEXTS = st.lists(st.sampled_from(PIECES) | LETTERS, min_size=1, max_size=8).map("".join)
REVIEWS = st.lists(TEXTS.filter(str.strip), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(REVIEWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from(",;\t|"), st.booleans())
def test_what_pandas_writes_is_read_or_refused(texts, end, separator, everywhere):
    labels = [number % 2 for number in range(len(texts))]
    rows = pd.DataFrame({"text": texts, "label": labels})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.csv")
        quoting = csv.QUOTE_ALL if everywhere else csv.QUOTE_MINIMAL
        rows.to_csv(path, index=False, sep=separator, quoting=quoting, lineterminator=end)
        try:
            found = read_table(path).select_columns(["text", "label"])[:]
        except CourseError as error:  # A line of a text that could be a row.
            assert "rows, depending on what its quotes mean" in str(error)
            assert any("\n" in text for text in texts)
        else:
            assert {**found} == {"text": texts, "label": labels}


def read(folder: Path, content: str) -> list[str]:
    path = folder / "train.csv"
    path.write_text(content, encoding="utf-8", newline="")
    return list(read_table(path)["text"])


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tlabel\nNo\t0\n"He said ""no"" to it"\t1\n', ["No", 'He said "no" to it']),
        ('text\tlabel\n"No"\t0\n"\\"AC\\DC\\" on film"\t1\n', ["No", '"AC\\DC" on film']),
        ('text\tlabel\nNo "film"\t0\n"Great" film, don\'t miss\t1\n', ['No "film"', '"Great" film, don\'t miss']),
        ('label, text\n1, "It\'s good, really"\n\n0, No\n', ["It's good, really", "No"]),
    ],
    ids=["standard", "R", "no quotes", "spaces after the separator"],
)
def test_texts_are_read_as_their_writer_quotes_them(tmp_path, content, texts):
    assert read(tmp_path, content) == texts


def test_r_puts_a_backslash_before_a_double_quote_alone(tmp_path: Path) -> None:
    """As in Kaggle's labeledTrainData.tsv."""
    texts = ['"Brilliant", and\\or odd :\\ to me', "a\tplain\none"] * 6
    lines = [f'"{row}_8"\t{row % 2}\t"{text}"' for row, text in enumerate(text.replace('"', '\\"') for text in texts)]
    assert read(tmp_path, "\n".join(["id\tsentiment\treview", *lines])) == texts


@pytest.mark.parametrize(
    "content",
    [
        "text\tlabel\n" + '"He said ""no"" twice"\t0\nFine\t1\n' * 6 + '"Great" film\t1\n',
        "text;label\n" + '"Good film";1\n"Bad film";0\n' * 6 + '"He said "no" to it";0\n',
        # R, and a text that ends in a backslash
        "text,label\n" + '"Fine",1\n"Dull",0\n' * 6 + '"\\"Good\\", and\\or \\",0\n"Great",1\n',
        "text,label\n" + "Fine,1\nDull,0\n" * 6 + "Two\rlines,0\n",
    ],
)
def test_a_row_that_does_not_fit_is_named_and_changes_no_other_text(tmp_path, content):
    with pytest.raises(CourseError, match="train.csv, row 12: .* Save it as parquet or jsonl, or put every text in"):
        read(tmp_path, content)


def test_quotes_that_open_in_one_text_and_close_in_another_join_no_rows(tmp_path: Path) -> None:
    content = 'text\tlabel\n"Good film\t1\nA bad "one"\t0\n' + "Fine\t1\n" * 10
    with pytest.raises(CourseError, match="it has 11 or 12 rows, depending on what its quotes mean. Save it as"):
        read(tmp_path, content.replace('A bad "one"', 'A bad one"'))
    assert read(tmp_path, content.replace('"', ""))[:2] == ["Good film", "A bad one"]
