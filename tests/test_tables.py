"""Tables of reviews in the dialects that people write: the same texts come back, or a refusal that names the row."""

import csv
import tempfile
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.settings import CourseError
from helpers.tables import read_table, unquote

PIECES = ["Good film", "don't", "''", '"x"', '""', "\\\\", '\\"', "\r\n", ", 0", "\n1,", *",;\t|\r\n'\""]
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
TEXTS = st.lists(st.sampled_from(PIECES) | LETTERS, min_size=1, max_size=8).map("".join)
REVIEWS = st.lists(TEXTS.filter(str.strip), min_size=1, max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LABELS = st.sampled_from([(0, 1), ("negative", "positive"), ("False", "True"), ("0.0", "1.0"), ("NEG", "Pos")])
WRITERS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t|"),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]),
        "quotechar": st.sampled_from("\"'"),
        "doublequote": st.booleans(),
        "escapechar": st.sampled_from([None, "\\"]),
        "lineterminator": ENDS,
    }
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


def write(path: Path, texts: list[str], labels: list, columns: list[str], writer: dict, by: str, encoding: str) -> bool:
    """Whether the dialect can hold these texts at all; pandas and the csv module refuse some."""
    rows = pd.DataFrame({"text": texts, "label": labels})[columns]
    try:
        if by == "pandas":
            renamed = {"sep" if name == "delimiter" else name: value for name, value in writer.items()}
            rows.to_csv(path, index=False, encoding=encoding, **renamed)
        else:
            with path.open("w", encoding=encoding, newline="") as file:
                csv.writer(file, **writer).writerows([columns, *rows.itertuples(index=False)])
    except csv.Error:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(
    REVIEWS,
    st.data(),
    LABELS,
    st.permutations(["text", "label"]),
    WRITERS,
    st.sampled_from(["csv", "pandas"]),
    ENCODINGS,
)
def test_a_table_gives_its_texts_or_is_refused(texts, data, names, columns, writer, by, encoding):
    numbers = data.draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.csv")
        if not write(path, texts, [names[number] for number in numbers], columns, writer, by, encoding):
            return
        try:
            read = read_table(path)[:]
        except CourseError as refusal:
            assert "train.csv" in str(refusal)
            return
    # Where other quotes or none are in use, double quotes around a whole text are taken for those of the standard.
    same = str if writer["quotechar"] == '"' and writer["quoting"] != csv.QUOTE_NONE else unquote
    assert [*map(same, read["text"])] == [*map(same, texts)] and read["label"] == numbers


@settings(max_examples=200, deadline=None)
@given(REVIEWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from(",;\t|"), st.booleans(), ENCODINGS)
def test_what_pandas_writes_is_read(texts, end, separator, everywhere, encoding):
    """Where quotes, backslashes or lines are in doubt, one review can show what they mean in the whole file."""
    if set("'\\\r\n") & set("".join(texts)):
        texts = ['AC\\DC said: "no, thanks; not\t| now"', *texts]
    labels = [number % 2 for number in range(len(texts))]
    rows = pd.DataFrame({"text": texts, "label": labels})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.csv")
        quoting = csv.QUOTE_ALL if everywhere else csv.QUOTE_MINIMAL
        rows.to_csv(path, index=False, sep=separator, quoting=quoting, lineterminator=end, encoding=encoding)
        assert read_table(path)[:] == {"text": texts, "label": labels}


def read(folder: Path, content: str) -> dict:
    path = folder / "train.csv"
    path.write_text(content, newline="")
    return read_table(path)[:]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"It\'s good"', "It's good"),
        ('"He said ""no"" to it"', 'He said "no" to it'),  # as pandas and Excel write it
        ('"\\"AC\\DC\\" on film"', '"AC\\DC" on film'),  # as R does
    ],
)
@pytest.mark.parametrize("others", ["No", '"No"'])
def test_double_quotes_around_a_text_are_no_part_of_it(tmp_path, written, text, others):
    found = read(tmp_path, "text\tlabel\n" + f"{others}\t0\n" * 9 + f"{written}\t1\n")
    assert found == {"text": ["No"] * 9 + [text], "label": [0] * 9 + [1]}


def test_quotes_in_a_column_that_may_name_the_splits_make_no_text_doubtful(tmp_path):
    assert read(tmp_path, "text,label,type\nGood,1,'film'\n")["text"] == ["Good"]


@pytest.mark.parametrize("separator", [", ", ",", " , "])
def test_a_space_after_the_separator_is_no_part_of_a_text(tmp_path, separator):
    rows = [("label", "text"), ("1", '"It\'s good, really"'), ("0", "No")]
    assert read(tmp_path, "\n".join(map(separator.join, rows)))["text"] == ["It's good, really", "No"]


@pytest.mark.parametrize(
    "content",
    [
        "text\tlabel\n" + '"He said ""no"" twice"\t0\nFine\t1\n' * 6 + '"Great" film\t1\n',
        "text;label\n" + '"Good film";1\n"Bad film";0\n' * 6 + '"He said "no" to it";0\n',
        # Two texts, each with one quote, and not one text with a line end in it
        "text\tlabel\n" + "Fine\t1\nDull\t0\n" * 6 + '"Great film\t1\nBad, he said"\t0\n"Okay"\t1\n',
        # R, and a text that ends in a backslash
        "text,label\n" + '"Fine",1\n"Dull",0\n' * 6 + '"\\"Good\\", and\\or \\",0\n"Great",1\n',
    ],
)
def test_a_row_whose_quotes_do_not_fit_changes_no_other_text(tmp_path, content):
    with pytest.raises(CourseError, match="train.csv, row 12: (its quotes do not match|it can be read as)"):
        read(tmp_path, content)


def test_a_large_table_takes_no_more_memory_than_a_few_copies_of_it(tmp_path):
    """Every dialect in which it cannot be read was kept with all that had been read: 3.5 GB for IMDb's 66 MB."""
    content = "text,label\n" + f'"{"A good, long film. " * 20}",1\n' * 3000
    tracemalloc.start()
    read(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(content)


def test_the_old_mac_s_ends_before_a_text_that_begins_with_the_other_sign(tmp_path):
    with pytest.raises(CourseError, match="train.csv: its lines end both in"):
        read(tmp_path, "text,label,stars\r\nGood,positive,10\r")


def test_r_puts_a_backslash_before_a_double_quote_alone(tmp_path: Path) -> None:
    """As in Kaggle's labeledTrainData.tsv."""
    texts = ['"Brilliant", and\\or odd :\\ to me', "a\tplain\none"] * 6
    lines = [f'"{row}_8"\t{row % 2}\t"{text}"' for row, text in enumerate(text.replace('"', '\\"') for text in texts)]
    assert read(tmp_path, "\n".join(["id\tsentiment\treview", *lines]))["text"] == texts
