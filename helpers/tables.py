"""One file of labelled reviews: csv in the dialects that people write, json, parquet, a folder of `datasets`.

No other text is ever read than the one that was written: a file that can be read in two ways, or not at all, is
refused with the row. Rows are counted from 0, without the header.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from helpers.hub import first_line
from helpers.settings import CourseError

# What people call the two columns and the two labels, whatever the case; the first name that is there counts.
COLUMNS = {"text": ("text", "review", "sentence"), "label": ("label", "sentiment")}
LABELS = {name: 0 for name in ("0", "0.0", "neg", "negative", "false")}
LABELS |= {name: 1 for name in ("1", "1.0", "pos", "positive", "true")}
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
QUOTE = "Put a text that contains the separator in double quotes, and write a double quote in it twice."


class WrongRow(Exception):
    """What is wrong in a row, and what to do; `row` is counted from 0."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def read_table(path: Path) -> tuple[list[str], list[int]]:
    """The texts, as they stand in the file, and the labels, 0 or 1; raises CourseError."""
    try:
        if path.is_dir():
            rows = read_arrow(Dataset.load_from_disk(str(path)).with_format("arrow")[:])
        elif path.suffix.lower() == ".parquet":
            rows = read_arrow(pq.read_table(path))
        else:
            name, data = path.name.lower(), path.read_bytes()
            text = decode(gzip.decompress(data) if name.endswith(".gz") else data)
            rows = (read_json if ".json" in name else read_csv)(text)
        return check_rows(*rows)
    except WrongRow as error:
        raise CourseError(f"{path.name}, row {error.row}: {error}") from error
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise CourseError(f"Could not read {path.name}: {first_line(error)}. The file is {path}.") from error


def check_rows(texts: list, labels: list) -> tuple[list[str], list[int]]:
    """Refuse a row without a text or with another label; returns the labels as numbers."""
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if text is None or (isinstance(text, str) and not text.strip()):
            raise WrongRow(row, "the text is empty. Remove the row or fill it in.")
        if not isinstance(text, str):
            raise WrongRow(row, f"the text is {show(text)}, of the type {type(text).__name__}: write it as a text.")
        if text.isascii() is False and re.search("[\ud800-\udfff]", text):
            raise WrongRow(row, f"the text {show(text)} has half a character in it (a lone surrogate). Remove it.")
        check_label(row, label)
    return texts, [LABELS[key(label)] for label in labels]


def check_label(row: int, label: Any) -> None:
    if key(label) not in LABELS:
        raise WrongRow(
            row,
            f"the label is {show(label)}, but must be 0, negative, neg or false, or else 1, positive, pos or true.",
        )


def key(label: Any) -> str:
    return str(label).strip().lower()


def show(value: Any) -> str:
    """A value for a message: on one line, and not the whole of a review."""
    text = "empty" if value is None or value == "" else " ".join(str(value).split())
    return ascii(text[:60] + "…")[1:-1].replace("\\u2026", "…") if len(text) > 60 else text


def find_columns(names: list) -> tuple[int, int]:
    """Where the texts and the labels are."""
    plain, found = [str(name).strip().lower() for name in names], []
    for column, known in COLUMNS.items():
        name = next((name for name in known if name in plain), None)
        if name and plain.count(name) > 1:
            raise ValueError(f"it has {plain.count(name)} columns {name}: remove one")
        found.append(plain.index(name) if name else column)
    if missing := [column for column in found if isinstance(column, str)]:
        seen = ", ".join(map(show, names[:8])) or "none"
        raise ValueError(
            f"it has no column {' and no column '.join(missing)}; it has: {seen}. Name them text and label"
        )
    return tuple(found)


def read_arrow(table: pa.Table) -> tuple[list, list]:
    """A table of parquet or `datasets`; where it says what its numbered labels are called, the names count."""
    text, label = (table.column_names[place] for place in find_columns(table.column_names))
    labels = table[label].to_pylist()
    said = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    names = dict(enumerate(said.get("features", {}).get(label, {}).get("names") or []))
    return table[text].to_pylist(), [names.get(value, value) if names else value for value in labels]


def decode(data: bytes) -> str:
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not {encoding.upper()}. Save the file again as UTF-8") from error
    if not text.strip():
        raise ValueError("it is empty")
    if "\0" in text[:1000]:
        raise ValueError("it is no text in UTF-8. Save the file again as UTF-8")
    return text


def read_json(content: str) -> tuple[list, list]:
    """A list of objects, an object a line, or one object with a list (or pandas' object) a column."""
    try:
        rows = json.loads(content)
    except ValueError:
        rows = []
        for row, line in enumerate(line for line in content.split("\n") if line.strip()):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise WrongRow(row, f"it is no JSON: {error} (seen: {show(line)}).") from error
    if isinstance(rows, dict) and all(isinstance(column, (dict, list)) for column in rows.values()):
        columns = {name: dict(enumerate(each)) if isinstance(each, list) else each for name, each in rows.items()}
        places = next(iter(columns.values()), {}).keys()
        if any(column.keys() != places for column in columns.values()):
            raise ValueError("its columns are not of one length")
        rows = [{name: column[place] for name, column in columns.items()} for place in places]
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise ValueError(f"it holds {show(rows)} in place of rows")
    for row, record in enumerate(rows):
        if not isinstance(record, dict):
            raise WrongRow(row, f'it is {show(record)}, but must be an object such as {{"text": "...", "label": 1}}.')
    names = list(rows[0]) if rows else []
    text, label = (names[place] for place in find_columns(names))
    return [record.get(text) for record in rows], [record.get(label) for record in rows]


def read_csv(content: str) -> tuple[list[str], list[str]]:
    """Read a table in every dialect in which it makes sense, and refuse it where these differ in a text."""
    ways: list[tuple[list[str], list[str]]] = []
    errors: list[Exception] = []
    end = re.search("\r\n|\r|\n|$", content).group()
    # Where a file has the old Mac's sign alone, too, the \n after the first one may belong to a text.
    ends = [end, "\r"] if end == "\r\n" and re.search("\r(?!\n)", content) else [end]
    for end, delimiter in product(ends, ",;\t|"):
        for dialect in list_dialects(content, delimiter):
            try:
                rows = parse(content, end, delimiter=delimiter, **dialect)
            except (WrongRow, ValueError) as error:
                errors.append(error)
                continue
            # Where every text stands in quotes, these are not part of the texts (if there are enough to train on).
            quoted = [re.fullmatch('"([^"]|"")+"', text) for text in rows[0]]
            if dialect.get("quoting") is None or len(quoted) < 10 or not all(quoted):
                ways.append(rows)
    if not ways:  # What went well for the longest is nearest to what is meant; else the header with most columns.
        raise max(errors, key=lambda error: getattr(error, "row", str(error).count(",") / len(content) - 1))
    first = list(zip(*ways[0], strict=True))
    for other in ways[1:]:
        for row, (one, two) in enumerate(zip(first, zip(*other, strict=True), strict=False)):
            if one != two:
                raise WrongRow(
                    row,
                    f"it can be read as {show(one[0])!r} or as {show(two[0])!r}, since the file leaves open what quotes"
                    " and backslashes mean in it. Save it as parquet or jsonl, or put every text in double quotes.",
                )
    return ways[0]


def list_dialects(content: str, delimiter: str) -> Iterator[dict[str, Any]]:
    """Quotes (double or single) that are doubled, or have a backslash before them, or both; or no quotes at all.

    The backslash is no such sign in a file that has one before a letter, where none needs to be.
    """
    before = set(re.findall(r"\\(.?)", content, re.DOTALL))
    for quote in "\"'":
        escapes = bool(before) and before <= {"\\", "\r", "\n", delimiter, quote}
        if quote in content:
            yield {"quotechar": quote}
            if escapes:
                yield {"quotechar": quote, "doublequote": False, "escapechar": "\\"}
                yield {"quotechar": quote, "escapechar": "\\"}
        if quote == '"':
            yield {"quoting": csv.QUOTE_NONE}
            if escapes:
                yield {"quoting": csv.QUOTE_NONE, "escapechar": "\\"}


def parse(content: str, end: str, **dialect: Any) -> tuple[list[str], list[str]]:
    """Read a table with Python's csv module: every row as long as the header, every label a label."""
    # The module takes either sign for the end of a line; a writer quotes no other than its own.
    other = {"\n": "\r", "\r": "\n"}.get(end, "")
    aside = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in content)
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(
        io.StringIO(content.replace(other, aside) if other else content, newline=""), strict=True, **dialect
    )
    row, texts, labels = -1, [], []
    header = None
    try:
        for values in filter(None, reader):
            if header is None:
                header = values
                text, label = find_columns(header)
                continue
            row += 1
            if len(values) != len(header):
                seen = " | ".join(map(show, values[:4]))
                raise WrongRow(row, f"{len(values)} values (seen: {seen}), but the header names {len(header)}. {QUOTE}")
            check_label(row, values[label])
            texts.append(values[text].replace(aside, other))
            labels.append(values[label])
    except csv.Error as error:
        raise WrongRow(row + 1, f"its quotes do not fit ({error}). {QUOTE}") from error
    return texts, labels
