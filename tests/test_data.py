import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from helpers.data import fingerprint_reviews, load_reviews
from helpers.settings import CourseError, Settings, local_folder

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
TEST = pd.DataFrame({"text": [f"00{index}" for index in range(12)], "label": [1, 0, 0] * 4})
SETS = {"train": TRAIN, "test": TEST}
CSV = TEST.to_csv(index=False).encode()


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "parquet": lambda rows, path: rows.to_parquet(path),
    "csv": lambda rows, path: rows.to_csv(path, index=False),
    "jsonl": lambda rows, path: rows.to_json(path, orient="records", lines=True, force_ascii=False),
}


def load(folder: Path | str):
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


def tree(folder: Path, names: tuple[str, str] = ("neg", "pos")) -> None:
    """Write the shape of aclImdb: a file a review, `unsup` beside `neg` and `pos`."""
    for split, rows in (("train", TRAIN), ("test", TEST)):
        for name in (*names, "unsup"):
            (folder / split / name).mkdir(parents=True)
        (folder / split / "unsup" / "0_0.txt").write_text("Nobody knows.")
        for index, row in rows.iterrows():
            path = folder / split / names[row["label"]] / f"{index:02}_7.txt"
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
    "no label": (TEST.rename(columns={"label": "stars"}), "no column label; it has: 'text', 'stars'"),
    "label 0.5": (changed("label", 0.5), "row 3: the label is .?0.5"),
    "label in words": (TEST.assign(label="great"), "row 0: the label is 'great', but must be 0, negative"),
    "two labels": (TEST.assign(sentiment=TEST["label"]), "more than one column label; .* once each"),
    "no label in a row": (changed("label", None), "row 3: the label is"),
    "blank text": (changed("text", " \n "), "row 3: the text is"),
    "no text in a row": (changed("text", None), "row 3: the text is"),
    "one label only": (TEST.assign(label=1), "only the label 1"),
    "few rows": (TEST[:4], "4 reviews; at least 10"),
}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("case", WRONG_ROWS)
def test_wrong_rows_are_named(tmp_path: Path, case: str, kind: str) -> None:
    rows, message = WRONG_ROWS[case]
    with pytest.raises(CourseError, match=f"test.{kind}.*{message}"):
        load(write(tmp_path, test=rows, kind=kind))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no data folder .*nowhere.*or a folder or file"):
        load(tmp_path / "nowhere")


def kaggle(folder: Path) -> None:
    rows = pd.concat([TRAIN, TEST]).rename(columns={"text": "review", "label": "sentiment"})
    rows["sentiment"] = rows["sentiment"].map({0: "negative", 1: "positive"})
    rows.to_csv(folder / "IMDB Dataset.csv", index=False)


def saved(folder: Path, names: tuple[str, str] = ("neg", "pos")) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    sets = {split: Dataset.from_dict(rows.to_dict("list"), features=features) for split, rows in SETS.items()}
    DatasetDict(sets).save_to_disk(folder)


def hub(folder: Path) -> None:
    (folder / "plain_text").mkdir()
    for split, rows in (*SETS.items(), ("unsupervised", TEST.assign(label=-1))):
        rows.to_parquet(folder / "plain_text" / f"{split}-00000-of-00001.parquet")


def shards(folder: Path) -> None:
    TEST.to_parquet(folder / "test.parquet")
    for shard, rows in enumerate((TRAIN[:9], TRAIN[9:])):
        rows.to_parquet(folder / f"train-0000{shard}-of-00002.parquet")


def one_table(folder: Path) -> None:
    """The columns of Kaggle's imdb_master.csv, which says what each row is for."""
    rows = pd.concat([TRAIN.assign(type="train"), TEST.assign(type="Testing")])
    rows["label"] = rows["label"].map({0: "neg", 1: "pos"})
    rows = pd.concat([rows, TEST.assign(label="unsup", type="train")])
    rows.assign(set="IMDb").rename(columns={"text": "review"}).iloc[:, ::-1].to_csv(folder / "imdb_master.csv")


def numbered(folder: Path) -> None:
    """One set of `datasets` whose column of splits has numbers, with names."""
    rows = pd.concat([TRAIN.assign(split=1), TEST.assign(split=0)])
    features = Features(
        {"text": Value("string"), "label": Value("int64"), "split": ClassLabel(names=["test", "train"])}
    )
    Dataset.from_dict(rows.to_dict("list"), features=features).save_to_disk(folder)


def spelled(zero: object, one: object) -> Callable[[Path], object]:
    words = {0: zero, 1: one}
    return lambda folder: write(folder, *(rows.assign(label=rows["label"].map(words)) for rows in SETS.values()))


def each(change: Callable[[pd.DataFrame, Path], object]) -> Callable[[Path], object]:
    """Write both sets with one writer, which is told the path without an ending."""
    return lambda folder: [change(rows, folder / split) for split, rows in SETS.items()]


def files(*names: str, content: bytes = CSV, beside: Callable[[Path], object] = lambda folder: None) -> Callable:
    """Write files of these names, all with one content, and what `beside` writes."""
    return lambda folder: [beside(folder), *((folder / name).write_bytes(content) for name in names)]


PEOPLE_HAVE: dict[str, Callable[[Path], object]] = {
    **{kind: lambda folder, kind=kind: write(folder, kind=kind) for kind in WRITERS},
    "the hub's shape": hub,
    "shards in order": shards,
    "save_to_disk": saved,
    "one table that names the splits": one_table,
    "a folder of shards inside": lambda folder: write(folder / "data", kind="parquet"),
    "one set whose splits have numbers": numbered,
    "a folder for each split": each(
        lambda rows, path: [path.mkdir(), rows.to_parquet(path / "0000.parquet")],
    ),
    "words": spelled("negative", "positive"),
    "booleans": spelled(False, True),
    "floats": spelled(0.0, 1.0),
    "csv.gz": each(lambda rows, path: rows.to_csv(f"{path}.csv.gz", index=False)),
    "jsonl.gz": each(lambda rows, path: rows.to_json(f"{path}.jsonl.gz", orient="records", lines=True)),
    "Train.csv": files(
        "Valid.csv", beside=each(lambda rows, path: rows.to_csv(path.with_name(f"{path.name.title()}.csv")))
    ),
    "sidecar files": files(
        "._train.csv", content=b"\0\5\26\7", beside=lambda folder: [write(folder), (folder / "__MACOSX").mkdir()]
    ),
    "a copy in a folder": lambda folder: [write(folder), write(folder / "old", test=TRAIN)],
    "the hub's cache": lambda folder: write(folder / "snapshots" / "0f" / "plain_text", kind="parquet"),
    "semicolon": each(lambda rows, path: rows.to_csv(f"{path}.csv", sep=";", index=False)),
    "tab": each(lambda rows, path: rows.to_csv(path.with_suffix(".tsv"), sep="\t", index=False)),
    "csv with a mark": each(lambda rows, path: rows.to_csv(f"{path}.csv", index=False, encoding="utf-8-sig")),
    "pandas' index": each(lambda rows, path: rows.to_csv(path.with_suffix(".csv"))),
    "other columns": each(lambda rows, path: rows.assign(url="x")[["url", "label", "text"]].to_csv(f"{path}.csv")),
    "a JSON list": each(lambda rows, path: rows.to_json(path.with_suffix(".json"), orient="records")),
    "a JSON object a column": each(lambda rows, path: rows.to_json(path.with_suffix(".json"))),
    "ndjson": each(lambda rows, path: rows.to_json(f"{path}.ndjson", orient="records", lines=True)),
    "csv.gz, unpacked by the browser": each(lambda rows, path: rows.to_csv(f"{path}.csv.gz", compression=None)),
    "jsonl called csv": each(lambda rows, path: rows.to_json(f"{path}.csv", orient="records", lines=True)),
    "jsonl with a mark": each(
        lambda rows, path: path.with_suffix(".jsonl").write_text(
            rows.to_json(orient="records", lines=True), encoding="utf-8-sig"
        )
    ),
}


@pytest.mark.parametrize("case", PEOPLE_HAVE)
def test_the_files_that_people_have(tmp_path: Path, case: str) -> None:
    PEOPLE_HAVE[case](tmp_path)
    assert_whole(load(tmp_path))


@pytest.mark.parametrize("inner", [".", "aclImdb"])
def test_the_unpacked_archive_with_sidecars_and_marks(tmp_path: Path, inner: str) -> None:
    tree(tmp_path / inner)
    marked = tmp_path / inner / "train" / "pos" / "01_7.txt"
    marked.with_name("._01_7.txt").write_bytes(b"\0\5\26\7")
    marked.write_bytes(b"\xef\xbb\xbf" + marked.read_bytes())
    assert_whole(load(tmp_path), *(rows.sort_values("label", kind="stable") for rows in (TRAIN, TEST)))


def test_a_tree_s_folders_are_called_as_labels_are(tmp_path: Path) -> None:
    tree(tmp_path, ("Negative", "Positive"))
    (tmp_path / "train").rename(tmp_path / "Train")
    assert_whole(load(tmp_path), *(rows.sort_values("label", kind="stable") for rows in (TRAIN, TEST)))
    (tmp_path / "test" / "2").mkdir()
    with pytest.raises(CourseError, match="test has a folder 2"):
        load(tmp_path)


def test_a_tree_without_train_and_test_is_split_in_halves(tmp_path: Path) -> None:
    tree(tmp_path)
    assert len(load((tmp_path / "train").rename(tmp_path / "movie_reviews"))["test"]) == 12


def test_numbered_labels_mean_what_the_file_says_they_mean(tmp_path: Path) -> None:
    saved(tmp_path, ("pos", "neg"))
    assert_whole(load(tmp_path), *(rows.assign(label=1 - rows["label"]) for rows in (TRAIN, TEST)))


@pytest.mark.parametrize("by_name", [False, True])
def test_one_file_is_split_in_halves_and_always_the_same(tmp_path: Path, by_name: bool) -> None:
    kaggle(tmp_path)
    first, second = (load(tmp_path / "IMDB Dataset.csv" if by_name else tmp_path) for _ in range(2))
    assert {split: len(rows) for split, rows in first.items()} == {"train": 14, "validation": 4, "test": 18}
    assert fingerprint_reviews(first) == fingerprint_reviews(second)
    texts = [text for rows in first.values() for text in rows["text"]]
    assert sorted(texts) == sorted([*TRAIN["text"], *TEST["text"]])


@pytest.mark.parametrize("make", [saved, tree, PEOPLE_HAVE["a folder for each split"]])
def test_the_folder_of_one_split_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Its rows alone, cut into halves, would be another experiment."""
    make(tmp_path)
    with pytest.raises(CourseError, match="No train and test reviews in .*/train, .* Give the folder above"):
        load(tmp_path / "train")


def test_a_file_called_train_stands_for_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "old")
    TRAIN.to_csv(tmp_path / "train.csv")
    with pytest.raises(CourseError, match="No test reviews in"):
        load(tmp_path / "train.csv")
    assert_whole(load(write(tmp_path) / "train.csv"))
    (tmp_path / "links").mkdir()
    for split in SETS:  # As in the hub's cache.
        (tmp_path / "links" / f"{split}.csv").symlink_to(tmp_path / f"{split}.csv")
    assert_whole(load(local_folder(tmp_path / "links" / "train.csv")))


def both(content: bytes, ending: str = "csv") -> Callable[[Path], object]:
    return files(f"train.{ending}", f"test.{ending}", content=content)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (files(), "No train and test reviews in .*which has: nothing.*text and label"),
    "no test": (files("train.csv"), "No test reviews in .*text and label"),
    "not unpacked": (files("archive.zip"), "which has: archive.zip. Put train.csv"),
    "a separator in a text": (
        both(b"text,label\n" + b"Good film, really 0,0\nBad film, really 1,1\n" * 6),
        "train.csv, row 0: it has 3 values .'Good film', ' really 0', '0'., but the header has 2. Save it as",
    ),
    "no header, texts with a separator": (
        both(b'"Good film, really",0\n"Bad film",1\n' * 6),
        "no column text; it has: 'Good film, really', '0'. Name them text and label",
    ),
    "JSON lists": (
        both(json.dumps(TEST.values.tolist()).encode(), "json"),
        r"train.json, row 0: it is \[.*, but must be an object such as",
    ),
    "JSON cut short": (both(b'{"text": "Fine.", "label": 1}\n{"text', "jsonl"), "train.jsonl, row 1: it is not JSON"),
    "a label that is a list": (both(b'{"text": "Fine.", "label": [1]}', "jsonl"), r"row 0: the label is \[1\]"),
    "a number for a text": (both(b'{"text": 1984, "label": 1}', "jsonl"), "row 0: the text is 1984, but must be a str"),
    "half a character": (both(b'{"text": "\\ud83d", "label": 1}', "jsonl"), "not read train.jsonl: .*surrogates"),
    "a review that is not UTF-8": (
        files("train/pos/01_7.txt", content="schön".encode("latin-1"), beside=tree),
        "pos/01_7.txt: line 1 is not text in UTF-8",
    ),
    "a review of another ending": (
        files("test/neg/98_7.TXT", "test/neg/99_7.text", beside=tree),
        "Could not read test: neg/99_7.text is not a .txt file: rename it",
    ),
    "a folder that is no label": (
        lambda folder: [tree(folder), (folder / "train" / "neutral").mkdir()],
        "train has a folder neutral, which is no label: move it",
    ),
    "a split that nobody knows": (
        lambda folder: pd.concat([TRAIN.assign(split="train"), TEST.assign(split=["tset"] + 11 * ["test"])]).to_csv(
            folder / "all.csv"
        ),
        "the split 'tset', but must have train, test or validation",
    ),
    "row names of R": (both(b'"text"\t"label"\n' + b'"1"\t"Film"\t0\n' * 6, "tsv"), "row 0: .*row.names=FALSE"),
    "a tree and a table": (files("train/reviews.csv", beside=tree), "are in .*/train and .*reviews.csv. Keep one"),
    "a part is missing": (
        files("train-0-of-2.csv", "test.csv"),
        "train-0-of-2.csv. Keep one of these, or all the parts",
    ),
    "a part twice": (
        files("test.csv", "train-0-of-2-aaaa.csv", "train-0-of-2-bbbb.csv"),
        "aaaa.csv and .*all the parts",
    ),
    "two files of one name": (
        files("test.csv", "train.csv", "train.parquet"),
        "train.csv and .*train.parquet. Keep one",
    ),
    "two folders": (lambda folder: [write(folder / "a"), write(folder / "b")], "reviews in a and b. Give the folder"),
    "a sign that nobody sees": (spelled(0, "1\u200b"), r"train.csv, row 1: the label is '1\\u200b', but must be 0"),
    "gzip cut short": (both(gzip.compress(b"a" * 99)[:20], "csv.gz"), "Could not read train.csv.gz"),
    "a zip called csv": (both(b"PK\3\4\x14\0\x08\0\x9f"), "line 1 is not text in UTF-8. Unpack an archive"),
    "no parquet": (both(b"<!DOCTYPE html>", "parquet"), "Could not read train.parquet: .* not a parquet file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_message(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    make(tmp_path)
    with pytest.raises(CourseError, match=message):
        load(tmp_path)
