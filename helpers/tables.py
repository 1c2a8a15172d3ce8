"""Read labelled reviews from one place: csv, json, parquet, a `datasets` folder, or text files.

A file is rejected if one of its rows cannot be read, and the message names the row. Rows are counted from 0, without
the header.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features

from helpers.hub import first_line
from helpers.settings import CourseError

# Common names of the columns and of the two labels, in upper or lower case.
COLUMNS = {"text": ("text", "review", "sentence"), "label": ("label", "sentiment"), "split": ("split", "type")}
LABELS = {"0": 0, "0.0": 0, "neg": 0, "negative": 0, "false": 0, "1": 1, "1.0": 1, "pos": 1, "positive": 1, "true": 1}
SPLITS = ("train", "test")
# The names of other sets, which are not used.
OTHERS = ("validation", "valid", "val", "dev", "eval", "unsup", "unsupervised", "unlabeled", "unlabelled")
UNLABELLED = "unsup"  # IMDb's own word; such rows are left out, as its folder of that name is.
ADVICE = "Save it as parquet or jsonl, or put every text in double quotes, and double every double quote inside it."
GZIP = b"\x1f\x8b"  # Browsers unpack what they download, whatever its name.
ESCAPE = "\udc81"  # a lone surrogate, which no decoded text contains
Rows = list[tuple[Any, ...]]  # text, label, and the name of its split or None

csv.field_size_limit(2**31 - 1)


class WrongRow(ValueError):
    """What is wrong with a row, and what to do; `row` is counted from 0."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def read_table(path: Path) -> Dataset:
    """The texts, exactly as in the file or folder, and the labels, 0 or 1; raises CourseError.

    There is also a column `split`: what the table says each row is for, such as train, or else an empty text.
    """
    kept: dict[str, list] = {"text": [], "label": [], "split": []}
    try:
        for row, (text, label, split) in enumerate(read_rows(path)):
            check_row(row, text, label)
            if spell(label) != UNLABELLED:
                kept["text"].append(text)
                kept["label"].append(LABELS[spell(label)])
                kept["split"].append(spell(split).removesuffix("ing"))  # such as training
        return Dataset.from_dict(kept)
    except WrongRow as error:
        raise CourseError(f"{path.name}, row {error.row}: {error}") from error
    except Exception as error:  # On broken files, the libraries raise errors of many kinds.
        raise CourseError(f"Could not read {path.name}: {first_line(error)}. The file is {path}.") from error


def read_rows(path: Path) -> Rows:
    """Read a file or folder by its kind; csv and json are told apart by how they begin."""
    if is_tree(path):
        return read_tree(path)
    if path.is_dir():
        return read_arrow(Dataset.load_from_disk(str(path)).with_format("arrow")[:])
    if path.suffix.lower() == ".parquet":
        return read_arrow(pq.read_table(path))
    content = read_text(path)
    return (read_json if re.match(r"\s*[\[{]", content) else read_csv)(content)


def check_row(row: int, text: Any, label: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise WrongRow(row, f"the text is {show(text)}, but must be a string with words. Remove or mend the row.")
    if spell(label) not in (*LABELS, UNLABELLED):
        known = "0, negative, neg or false, or else 1, positive, pos or true"
        raise WrongRow(row, f"the label is {show(label)}, but must be {known}.")


def spell(name: Any) -> str:
    """The name of a label or column in the form of the tables above."""
    return str(name).strip().lower()


def show(value: Any) -> str:
    """A value for a message: on one line, shortened, and with every invisible character."""
    return repr(value) if len(repr(value)) <= 60 else f"{value!r:.60}…"


def find_columns(names: list) -> tuple[Any, Any, Any]:
    """The names of the columns of texts, labels and splits; ValueError unless there is one text and one label."""
    text, label, split = ([name for name in names if spell(name) in known] for known in COLUMNS.values())
    for column, found in (("text", text), ("label", label)):
        if len(found) != 1:
            said = f"it has {'more than one' if found else 'no'} column {column}"
            raise ValueError(f"{said}; it has: {', '.join(map(show, names[:8]))}. Name them text and label, once each")
    return text[0], label[0], split[0] if split else None


def list_visible(folder: Path) -> list[Path]:
    """The contents of a folder, sorted, without hidden files such as macOS's `._train.csv`."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def list_labelled(folder: Path) -> list[tuple[int, Path]]:
    """The folders that are named after labels, with these, sorted: `neg` and `pos` in the archive aclImdb."""
    found = [path for path in list_visible(folder) if spell(path.name) in LABELS and path.is_dir()]
    return sorted((LABELS[spell(path.name)], path) for path in found)


def is_tree(path: Path) -> bool:
    return path.is_dir() and {label for label, _ in list_labelled(path)} == {0, 1}


def read_tree(folder: Path) -> Rows:
    """Read one review per file; other files and folders are rejected, as they might be reviews, too."""
    known = (*LABELS, *OTHERS)
    if more := [path.name for path in list_visible(folder) if path.is_dir() and spell(path.name) not in known]:
        raise ValueError(f"{folder.name} has a folder {more[0]}, which is no label: move it elsewhere")
    files = [(path, label) for label, inside in list_labelled(folder) for path in list_visible(inside)]
    if more := [f"{path.parent.name}/{path.name}" for path, _ in files if path.suffix.lower() != ".txt"]:
        raise ValueError(f"{more[0]} is not a .txt file: rename it if it is another review, or move it elsewhere")
    return [(read_text(path), label, None) for path, label in files]


def read_arrow(table: pa.Table) -> Rows:
    """Read a table of parquet or `datasets`; if it has names for its numbered labels, the names count."""
    columns = []
    for name in find_columns(table.column_names):
        values = table[name].to_pylist() if name else [None] * len(table)
        kind = name and Features.from_arrow_schema(table.select([name]).schema)[name]
        names = dict(enumerate(kind.names)) if isinstance(kind, ClassLabel) else {}
        columns.append([names.get(value, value) for value in values] if names else values)
    return list(zip(*columns, strict=True))


def read_text(path: Path) -> str:
    """A file's text, in UTF-8; ValueError for other encodings and empty files."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data.startswith(GZIP) else data
    name = f"{path.parent.name}/{path.name}"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        advice = "Unpack an archive, save a table as UTF-8 csv, or give a data set's folder"
        raise ValueError(f"{name}: line {line} is not text in UTF-8. {advice}") from error
    if not text.strip():
        raise ValueError(f"{name} is empty. Fill it in or remove it")
    return text


def read_json(content: str) -> Rows:
    """Read a list of objects, one object per line, or one object with a list (or pandas' object) per column."""
    try:
        records = json.loads(content)
    except ValueError:
        records = []
        for row, line in enumerate(filter(str.strip, content.split("\n"))):
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
    names = find_columns(list(records[0]) if records else [])
    return [tuple(map(record.get, names)) for record in records]


def read_csv(content: str) -> Rows:
    """Read a table with quotes as the csv standard has them, or else as R writes them, or else without quotes."""
    header = re.match("[^\r\n]*", content)[0]
    separator = max(",;\t|", key=header.count)
    ways: list[tuple[str, dict[str, Any]]] = [
        (content, {}),
        # R puts a backslash before a double quote, but not before another backslash.
        (content.replace('\\"', f'{ESCAPE}"'), {"escapechar": ESCAPE}),
        (content, {"quoting": csv.QUOTE_NONE}),
    ]
    found: list[Rows] = []
    nearest: ValueError | None = None
    for text, quotes in ways:
        dialect = {"delimiter": separator, "skipinitialspace": f"{separator} " in header, **quotes}
        try:
            found.append(parse(csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)))
        except ValueError as error:  # The way that read the most rows tells most.
            nearest = max(nearest or error, error, key=lambda error: getattr(error, "row", -1))
    if not found:
        raise nearest
    if len(counts := {*map(len, found)}) > 1:  # A quote opens in one text, and one closes in another.
        raise ValueError(f"it has {min(counts)} or {max(counts)} rows, depending on what its quotes mean. {ADVICE}")
    return found[0]


def parse(reader: Iterator[list[str]]) -> Rows:
    """The rows of a table; every row must be as long as the header, and every label a known one."""
    rows: Rows = []
    try:
        lines = filter(None, reader)
        header = next(lines, [])
        places = [name and header.index(name) for name in find_columns(header)]
        for values in lines:
            if len(values) != len(header):
                seen = f"{len(values)} values ({', '.join(map(show, values[:4]))}), but the header has {len(header)}"
                raise WrongRow(len(rows), f"it has {seen}. {ADVICE} In R, write it with row.names=FALSE.")
            text, label, split = (None if place is None else values[place] for place in places)
            if reader.dialect.quoting == csv.QUOTE_NONE and text[:1] == text[-1:] == '"':
                raise csv.Error("this text is in quotes, but not every one is")
            check_row(len(rows), text, label)
            rows.append((text, label, split))
    except csv.Error as error:
        raise WrongRow(len(rows), f"its quotes do not match ({error}). {ADVICE}") from error
    return rows
