import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset

from helpers.data import fingerprint_reviews, load_reviews
from helpers.settings import CourseError, Settings

TEXTS = [
    "Good.",
    "Bad, bad.",
    'He said: "no, thanks".',
    "Line\nbreak <br />",
    "Ünïcödé 映画 🎬",
    "null",
    "1984",
    "  so so  ",
]
TRAIN = pd.DataFrame({"text": [f"{text}{index}" for index in range(3) for text in TEXTS], "label": [0, 1] * 12})
TRAIN.loc[:7, "text"] = TEXTS
TEST = pd.DataFrame({"text": [f"Test {index}" for index in range(12)], "label": [1, 0, 0] * 4})


def write_jsonl(rows: pd.DataFrame, path: Path) -> None:
    rows.to_json(path, orient="records", lines=True, force_ascii=False)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "parquet": lambda rows, path: rows.to_parquet(path),
    "csv": lambda rows, path: rows.to_csv(path, index=False),
    "jsonl": write_jsonl,
}


def load(folder: Path):
    return load_reviews(Settings(data=str(folder)))


def write(folder: Path, train: pd.DataFrame = TRAIN, test: pd.DataFrame = TEST, kind: str = "csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[kind](train, folder / f"train.{kind}")
    WRITERS[kind](test, folder / f"test.{kind}")
    return folder


def assert_whole(reviews, train: pd.DataFrame = TRAIN, test: pd.DataFrame = TEST) -> None:
    """The right rows, in the right columns, split as the course splits them."""
    rows = Dataset.from_dict(train.to_dict("list")).train_test_split(test_size=0.2, seed=3463)
    for split, wanted in (("train", rows["train"]), ("validation", rows["test"]), ("test", test)):
        assert reviews[split].column_names == ["text", "label"]
        assert list(reviews[split]["text"]) == list(wanted["text"])
        assert list(reviews[split]["label"]) == list(wanted["label"])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_of_files(tmp_path: Path, kind: str) -> None:
    assert_whole(load(write(tmp_path, kind=kind)))


@pytest.mark.parametrize("kind", WRITERS)
def test_texts_that_look_like_numbers_stay_texts(tmp_path: Path, kind: str) -> None:
    test = TEST.assign(text=[f"00{number}" for number in range(12)])
    assert list(load(write(tmp_path, test=test, kind=kind))["test"]["text"]) == list(test["text"])


def test_the_hub_s_shape(tmp_path: Path) -> None:
    (tmp_path / "plain_text").mkdir()
    for split, rows in (("train", TRAIN), ("test", TEST), ("unsupervised", TEST.assign(label=-1))):
        rows.to_parquet(tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet")
    assert_whole(load(tmp_path))


def test_shards_are_put_together_in_order(tmp_path: Path) -> None:
    write(tmp_path, kind="parquet")
    (tmp_path / "train.parquet").unlink()
    for shard, rows in enumerate((TRAIN[:9], TRAIN[9:])):
        rows.to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    assert_whole(load(tmp_path))


def test_the_unpacked_archive(tmp_path: Path) -> None:
    tree(tmp_path)
    by_label = [rows.sort_values("label", kind="stable") for rows in (TRAIN, TEST)]
    assert_whole(load(tmp_path), *by_label)


def tree(folder: Path) -> None:
    """Write the shape of aclImdb: a file a review, `unsup` beside `neg` and `pos`."""
    for split, rows in (("train", TRAIN), ("test", TEST)):
        for name in ("neg", "pos", "unsup"):
            (folder / split / name).mkdir(parents=True)
        (folder / split / "unsup" / "0_0.txt").write_text("Nobody knows.")
        for index, row in rows.iterrows():
            path = folder / split / ("pos" if row["label"] else "neg") / f"{index:02}_7.txt"
            path.write_text(row["text"], encoding="utf-8")


def test_a_fingerprint_knows_a_text_a_label_and_the_order(tmp_path: Path) -> None:
    prints = [
        fingerprint_reviews(load(write(tmp_path / str(index), test=test)))
        for index, test in enumerate(
            (TEST, TEST, TEST.assign(text=TEST["text"] + "."), TEST.assign(label=1 - TEST["label"]), TEST[::-1])
        )
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 4


def changed(column: str, value: object, row: int = 3) -> pd.DataFrame:
    rows = TEST.astype({column: object})
    rows.loc[row, column] = value
    return rows


WRONG_ROWS = {
    "no label": (TEST.rename(columns={"label": "sentiment"}), "no column label; it has: text, sentiment"),
    "neither column": (TEST.set_axis(["a", "b"], axis=1), "no column text and no column label; it has: a, b"),
    "label 2": (changed("label", 2), "row 3: the label is 2"),
    "label -1": (changed("label", -1), "row 3: the label is -1"),
    "label 0.5": (changed("label", 0.5), "row 3: the label is 0.5"),
    "label in words": (TEST.assign(label="positive"), "row 0: the label is 'positive'"),
    "no label in a row": (changed("label", None), "row 3: the label is"),
    "empty text": (changed("text", ""), "row 3: the text is empty"),
    "blank text": (changed("text", " \n "), "row 3: the text is empty"),
    "no text in a row": (changed("text", None), "row 3: the text is empty"),
    "one label only": (TEST.assign(label=1), "only the label 1"),
    "few rows": (TEST[:4], "4 reviews; at least 10"),
}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("case", WRONG_ROWS)
def test_wrong_rows_are_named(tmp_path: Path, case: str, kind: str) -> None:
    rows, message = WRONG_ROWS[case]
    with pytest.raises(CourseError, match=message) as caught:
        load(write(tmp_path, test=rows, kind=kind))
    assert f"test.{kind}" in str(caught.value)


def test_labels_of_another_type_are_named(tmp_path: Path) -> None:
    write(tmp_path, kind="jsonl")
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps({"text": "a", "label": [1]}) for _ in range(12)))
    with pytest.raises(CourseError, match=r"row 0: the label is \[1\]"):
        load(tmp_path)


BROKEN_FILES = {
    "not parquet": ("train.parquet", b"text,label\nGood.,1\n"),
    "cut parquet": ("train.parquet", b"PAR1 and no more PAR1"),
    "empty parquet": ("train.parquet", b""),
    "csv in Latin-1": ("train.csv", "text,label\nEin schöner Film.,1\n".encode("latin-1")),
    "csv with ragged rows": ("train.csv", b"text,label\na,1\nb,1,2,3\n"),
    "empty csv": ("train.csv", b""),
    "jsonl in Latin-1": ("train.jsonl", '{"text": "schön", "label": 1}'.encode("latin-1")),
    "jsonl cut short": ("train.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "la'),
    "jsonl of numbers": ("train.jsonl", b"1\n2\n3\n"),
    "jsonl of lists": ("train.jsonl", b'["a", 1]\n["b", 0]\n'),
    "one JSON list": ("train.jsonl", b'[{"text": "a", "label": 1}]'),
    "empty jsonl": ("train.jsonl", b""),
    "a folder for a file": ("train.csv/inner.csv", b""),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files_are_named(tmp_path: Path, case: str) -> None:
    name, content = BROKEN_FILES[case]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(CourseError, match=r"train\.(parquet|csv|jsonl)"):
        load(tmp_path)


def test_a_review_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "pos" / "01_7.txt").write_bytes("schön".encode("latin-1"))
    with pytest.raises(CourseError, match="01_7.txt is not UTF-8"):
        load(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no data folder .*nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [None, "train"])
def test_a_folder_without_reviews_says_what_to_put_there(tmp_path: Path, kept: str | None) -> None:
    write(tmp_path)
    for split in {"train", "test"} - {kept}:
        (tmp_path / f"{split}.csv").unlink()
    with pytest.raises(CourseError, match=f"No {'test' if kept else 'train'} reviews in .*text and label"):
        load(tmp_path)
