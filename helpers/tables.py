"""Read labelled reviews from one place: csv in its many dialects, json, parquet, a `datasets` folder, or text files.

A text is never read differently from how it was written: a file that can be read in two ways, or not at all, is
rejected, and the message names the row. Only double quotes around a whole text, as the csv standard has them, are never
part of it. Rows are counted from 0, without the header.
"""

import codecs
import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterator
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from helpers.hub import find_pointer, first_line
from helpers.settings import CourseError, is_there

# Common names of the columns and of the two labels, in upper or lower case.
COLUMNS = {"text": ("text", "review", "sentence"), "label": ("label", "sentiment"), "split": ("split", "type", "set")}
LABELS = {"0": 0, "0.0": 0, "neg": 0, "negative": 0, "false": 0, "1": 1, "1.0": 1, "pos": 1, "positive": 1, "true": 1}
SPLITS = ("train", "test")
# The names of other sets, which are not used.
OTHERS = ("validation", "valid", "val", "dev", "eval", "unsup", "unsupervised", "unlabeled", "unlabelled")
UNLABELLED = "unsup"  # IMDb's own word; such rows are left out, as its folder of that name is.
QUOTE = "Put a text that contains the separator in double quotes, and double every double quote inside it."
ROW_NAMES = "Leave out row names (in R: row.names=FALSE), or give them a header."
BINARY = "is binary, not UTF-8 text: unpack an archive, export a table as UTF-8 csv, or give a data set's folder"
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"  # Names mislead: browsers unpack what they download; caches rename it.
ASIDE, ESCAPE = "\udc80", "\udc81"  # Lone surrogates, which no decoded text contains.
Rows = list[tuple[Any, ...]]  # text, label, and the name of its split or None

csv.field_size_limit(2**31 - 1)


class WrongRow(ValueError):
    """What is wrong with a row, and what to do; `row` is counted from 0."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def read_table(path: Path) -> Dataset:
    """The texts, exactly as in the file or folder, and the labels, 0 or 1; raises CourseError.

    If a table itself says which rows are for training and which for the test, there is also a column `split`.
    """
    try:
        if pointer := find_pointer(path):
            raise ValueError(pointer)
        if is_tree(path):
            rows = read_tree(path)
        elif path.is_dir():
            rows = read_arrow(Dataset.load_from_disk(str(path)).with_format("arrow")[:])
        elif path.suffix.lower() == ".parquet" or is_parquet(path):
            rows = read_arrow(pq.read_table(path))
        else:
            content = read_text(path)
            rows = (read_json if re.match(r"\s*[\[{]", content) else read_csv)(content)
        splits = [spell(row[2]).removesuffix("ing") for row in rows]  # such as training
        is_split = {*SPLITS} <= {*splits}
        for row, (text, label, split) in enumerate(rows):
            check_text(row, text)
            check_label(row, label)
            if is_split and splits[row] not in (*SPLITS, *OTHERS) and spell(label) != UNLABELLED:
                raise WrongRow(row, f"the split is {show(split)}, but must be train, test or validation.")
    except WrongRow as error:
        raise CourseError(f"{path.name}, row {error.row}: {error}") from error
    except Exception as error:  # On broken files, the libraries raise errors of many kinds.
        raise CourseError(f"Could not read {path.name}: {first_line(error)}. The file is {path}.") from error
    kept = [row for row, (_, label, _) in enumerate(rows) if spell(label) != UNLABELLED]
    columns = {"text": [rows[row][0] for row in kept], "label": [LABELS[spell(rows[row][1])] for row in kept]}
    return Dataset.from_dict(columns | ({"split": [splits[row] for row in kept]} if is_split else {}))


def is_parquet(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(4) == PARQUET


def check_text(row: int, text: Any) -> None:
    if text is None or (isinstance(text, str) and not text.strip()):
        raise WrongRow(row, "the text is empty. Remove the row or fill it in.")
    if not isinstance(text, str):
        raise WrongRow(row, f"the text is {show(text)}, of the type {type(text).__name__}: write it as a string.")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise WrongRow(row, f"the text {show(text)} contains half a character (a lone surrogate). Remove it.")


def check_label(row: int, label: Any) -> None:
    if spell(label) not in (*LABELS, UNLABELLED):
        known = "0, negative, neg or false, or else 1, positive, pos or true"
        raise WrongRow(row, f"the label is {show(label)}, but must be {known}.")


def spell(name: Any) -> str:
    """The name of a label or column in the form of the tables above."""
    return str(name).strip().lower()


def show(value: Any) -> str:
    """A value for a message: on one line, and shortened."""
    text = " ".join(str("" if value is None else value).split()) or "empty"
    text = text if len(text) <= 60 else f"{text[:60]}…"
    return text if text.isprintable() else ascii(text)[1:-1]  # An invisible character would explain nothing.


def find_columns(names: list) -> tuple[int, int, int | None]:
    """The places of texts, labels and splits; ValueError if a text or label is missing or may be in two columns."""
    places = {each: [at for at, name in enumerate(names) if spell(name) in known] for each, known in COLUMNS.items()}
    if wrong := [column for column in ("text", "label") if len(places[column]) != 1]:
        said = " and ".join(f"{'more than one' if places[column] else 'no'} column {column}" for column in wrong)
        seen = ", ".join(map(show, names[:8])) or "none"
        more = ", and rename the other one" if any(map(places.get, wrong)) else ""
        raise ValueError(f"it has {said}; it has: {seen}. Name them text and label, once each{more}")
    split = min(places["split"], key=lambda at: COLUMNS["split"].index(spell(names[at])), default=None)
    return places["text"][0], places["label"][0], split


def pick(values: Any, places: tuple) -> tuple[Any, ...]:
    """The values of a row that are used; None for the split if there is no such column."""
    return tuple(None if place is None else values[place] for place in places)


def list_visible(folder: Path) -> list[Path]:
    """The contents of a folder, sorted, without hidden files such as macOS's `._train.csv`."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def list_labelled(folder: Path) -> list[tuple[int, Path]]:
    """The folders that are named after labels, with these, sorted: `neg` and `pos` in the archive aclImdb."""
    found = [path for path in list_visible(folder) if spell(path.name) in LABELS and os.path.isdir(path)]
    return sorted((LABELS[spell(path.name)], path) for path in found)


def is_tree(path: Path) -> bool:
    return os.path.isdir(path) and is_there(path) and {label for label, _ in list_labelled(path)} == {0, 1}


def read_tree(folder: Path) -> Rows:
    """Read one review per file; other files and folders are rejected, as they might be reviews, too."""
    known = (*LABELS, *OTHERS)
    if more := [path.name for path in list_visible(folder) if os.path.isdir(path) and spell(path.name) not in known]:
        raise ValueError(f"{folder.name} has a folder {more[0]}, which is no label: move it elsewhere")
    files = [(path, label) for label, inside in list_labelled(folder) for path in list_visible(inside)]
    for path, _ in files:
        if path.suffix.lower() != ".txt":
            said = f"{path.parent.name}/{path.name} is not a .txt file"
            raise ValueError(f"{said}: rename it if it is another review, or move it elsewhere")
    return [(read_text(path), label, None) for path, label in files]


def read_arrow(table: pa.Table) -> Rows:
    """Read a table of parquet or `datasets`; if it has names for its numbered labels, the names count."""
    text, label, split = pick(table.column_names, find_columns(table.column_names))
    said = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})

    def read(column: str) -> list[Any]:
        names = dict(enumerate(((said.get("features") or {}).get(column) or {}).get("names") or []))
        values = table[column].to_pylist()
        return [names.get(value, value) for value in values] if names else values

    return list(zip(read(text), read(label), read(split) if split else [None] * len(table), strict=True))


def read_text(path: Path) -> str:
    """A file's text, in UTF-8, or in UTF-16 with a byte order mark; ValueError for other encodings and empty files."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data.startswith(GZIP) else data
    encoding = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "UTF-8"
    name = f"{path.parent.name}/{path.name}"
    try:
        text = data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        if encoding == "UTF-8" and re.search(rb"[\0-\x08\x0e-\x1f]", data[:1000]):
            raise ValueError(f"{name} {BINARY}") from error
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{name}: line {line} is not {encoding}. Save it again as UTF-8") from error
    if "\0" in text[:1000]:
        raise ValueError(f"{name} {BINARY}")
    if not text.strip():
        raise ValueError(f"{name} is empty. Fill it in or remove it")
    return text


def read_json(content: str) -> Rows:
    """Read a list of objects, one object per line, or one object with a list (or pandas' object) per column."""
    try:
        records = json.loads(content)
    except ValueError:
        records = []
        for row, line in enumerate(filter(str.strip, re.split("[\r\n]+", content))):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise WrongRow(row, f"it is not JSON: {error} (found: {show(line)}).") from error
    if isinstance(records, dict) and all(isinstance(column, (dict, list)) for column in records.values()):
        find_columns(list(records))
        records = pd.DataFrame(records, dtype=object).to_dict("records")
    records = [records] if isinstance(records, dict) else records
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise WrongRow(row, f'it is {show(record)}, but must be an object such as {{"text": "...", "label": 1}}.')
    names = list(records[0]) if records else []
    names = pick(names, find_columns(names))
    return [tuple(map(record.get, names)) for record in records]


def read_csv(content: str) -> Rows:
    """Read a table in every dialect in which it makes sense, and reject it if these disagree on a text."""
    ways: list[Rows] = []
    doubtful: list[Rows] = []
    nearest: ValueError | None = None  # Only one is kept: its traceback holds all rows read so far.
    content = re.sub(r"\A(?i:sep=).(\r\n|\r|\n)", "", content)  # Excel names the separator in its own line.
    header, end = re.match("([^\r\n]*)(\r\n|\r|\n|)", content).groups()
    if end == "\r\n" and content.endswith("\r"):  # Old Mac line ends, and a text that begins with \n.
        raise ValueError("its lines end both in \\r\\n and in \\r alone. Save it as parquet or jsonl")
    # The csv module takes either character for the end of a line; writers quote only their own.
    other = "\n" if end == "\r" else "\r"
    content = re.sub("\r(?!\n)" if end == "\r\n" else other, ASIDE, content)
    lines, of_r = (io.StringIO(each, newline="") for each in (content, content.replace('\\"', f'{ESCAPE}"')))
    for dialect in list_dialects(content, header):
        try:
            rows = parse(of_r if dialect.get("escapechar") == ESCAPE else lines, other, dialect)
        except ValueError as error:
            nearest = max(nearest or error, error, key=lambda error: getattr(error, "row", -1))
            continue
        # Where double quotes are in use, one of them may be missing if the file can only be read with others.
        with_others = dialect.get("quotechar") != '"'
        unquoted = [(unquote(text), *others) for text, *others in rows] if with_others else rows
        (ways if unquoted == rows else doubtful).append(unquoted)
    if not ways:  # The dialect that read the most rows is closest; in a tie, that of the likeliest separator.
        raise nearest
    for row, (first, *others) in enumerate(zip_longest(*ways, *doubtful, fillvalue=("", ""))):
        for other in others:
            if other[:2] != first[:2]:  # their texts and labels
                raise WrongRow(
                    row,
                    f"it can be read as {show(first[0])!r} or as {show(other[0])!r}, since it is unclear what quotes"
                    " and backslashes mean in this file. Save it as parquet or jsonl, or put every text in double"
                    " quotes.",
                )
    return ways[0]


def unquote(text: str) -> str:
    """A text without double quotes around all of it, and without their doubles or escapes inside it."""
    return re.sub(r'""|\\"', '"', text[1:-1]) if re.fullmatch(r'"([^"]|""|\\")+"', text) else text


def list_dialects(content: str, header: str) -> Iterator[dict[str, Any]]:
    """The dialects to try: quotes (double, single or none) that are doubled, or escaped with a backslash, or both.

    If a file has a backslash before a letter, which needs no escape, then a backslash is an escape only before a double
    quote, as in R's output (Kaggle's labeledTrainData.tsv), or never.
    """
    escaped = set(re.findall(r"\\(.?)", content, re.DOTALL))
    for delimiter, quote in product(sorted(",;\t|", key=header.count, reverse=True), ('"', "'", None)):
        spaced = {"delimiter": delimiter, "skipinitialspace": f"{delimiter} " in header}  # text, label
        dialect = spaced | ({"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE})
        yield dialect
        if escaped and escaped <= {"\\", "\r", "\n", ASIDE, delimiter, quote or '"'}:
            yield dialect | {"escapechar": "\\"}
        elif quote == '"' and quote in escaped:
            yield dialect | {"escapechar": ESCAPE}


def parse(lines: io.StringIO, aside: str, dialect: dict[str, Any]) -> Rows:
    """Read a table with Python's csv module; every row must be as long as the header, every label a known one."""
    lines.seek(0)
    reader = filter(None, csv.reader(lines, strict=True, **dialect))
    rows: Rows = []
    header = None
    try:
        header = next(reader)
        places = find_columns(header)
        for values in reader:
            values = [value.replace(ASIDE, aside) for value in values]
            if len(values) != len(header):
                seen = f"{len(values)} values (found: {' | '.join(map(show, values[:4]))})"
                raise WrongRow(len(rows), f"{seen}, but the header has {len(header)}. {QUOTE} {ROW_NAMES}")
            rows.append(pick(values, places))
            check_label(len(rows) - 1, rows[-1][1])
    except csv.Error as error:
        said = f"its quotes do not match ({error}). {QUOTE}"
        raise (WrongRow(len(rows), said) if header else ValueError(f"in the header, {said}")) from error
    return rows
