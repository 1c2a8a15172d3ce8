"""Labelled reviews from the hub, its offline cache, a folder or one file, checked and split."""

import hashlib
import re
from pathlib import Path

from datasets import Dataset, DatasetDict

from helpers.hub import ENDINGS, find_folder
from helpers.settings import CourseError, Settings
from helpers.tables import decode, read_table

SPLITS = ("train", "test")
FOLDERS = {"neg": 0, "pos": 1}
TABLE = rf"\.({'|'.join(map(re.escape, ENDINGS))})"
SHARD = r"(-(?P<number>\d+)(-of-(?P<count>\d+))?(-[0-9a-f]+)?)?"


def load_reviews(settings: Settings) -> DatasetDict:
    """Load `train`, `validation` and `test`, with the columns `text` and `label` (0 negative, 1 positive).

    The data may be a hub id; a folder with train and test files (parquet, csv, tsv, json or jsonl, the last four also
    as .gz), in it or in one of its folders (`plain_text/train-00000-of-00001.parquet`); the unpacked aclImdb tree; a
    `save_to_disk` folder; or one file with all reviews. One file is split in halves, train and test, as IMDb is, with
    `train_test_split(test_size=0.5, seed=3463)`: they are not the halves of the published figures. The validation
    reviews are `train_test_split(test_size=0.2, seed=3463)` of the training reviews. Files whose names begin with a
    dot are none. Raises CourseError where data is missing or wrong.
    """
    given = Path(settings.data)
    sources = {"all": [given]} if given.is_file() else find_sources(find_folder(settings.data, "dataset"))
    sets = {split: read_set(paths) for split, paths in sources.items()}
    if "all" in sets:
        sets = sets["all"].train_test_split(test_size=0.5, seed=settings.split_seed)
    parts = sets["train"].train_test_split(test_size=settings.test_size, seed=settings.split_seed)
    return DatasetDict(train=parts["train"], validation=parts["test"], test=sets["test"])


def fingerprint_reviews(reviews: DatasetDict) -> str:
    """Hash every text and label in order (SHA-256, 16 digits)."""
    digest = hashlib.sha256()
    for split in reviews.values():
        for text, label in zip(split["text"], split["label"], strict=True):
            digest.update(f"{label}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def find_sources(folder: Path) -> dict[str, list[Path]]:
    """Where `train` and `test`, or `all`, are: files in order, or a folder; those in `folder` itself go first."""
    inside = [path for path in list_visible(folder) if path.is_dir() and path.name.lower() not in SPLITS]
    there = [(base, {split: find_split(base, split) for split in SPLITS}) for base in (folder, *inside)]
    whole = [(base, found) for base, found in there if all(found.values())]
    if whole and (whole[0][0] == folder or len(whole) == 1):
        return whole[0][1]
    if whole:
        names = " and ".join(base.name for base, _ in whole)
        raise CourseError(f"{folder} has reviews in {names}. Give the folder of the ones that you mean.")
    found = {split for _, pair in there for split in SPLITS if pair[split]}
    tables = [path for path in list_visible(folder) if is_table(path)]
    if (folder / "state.json").exists():
        return {"all": [folder]}
    if not found and len(tables) == 1:
        return {"all": tables}
    seen = ", ".join(path.name for path in list_visible(folder)[:8]) or "nothing"
    raise CourseError(
        f"No {next(split for split in SPLITS if split not in found or len(found) == 2)} reviews in {folder}, which has:"
        f" {seen}. Put train.csv and test.csv there (or parquet, json, jsonl), or one such file with all reviews, with"
        " the columns text and label, or unpack the archive aclImdb_v1.tar.gz and give its folder aclImdb."
    )


def find_split(base: Path, split: str) -> list[Path]:
    """The files of a split, or its folder (aclImdb's, or one of `datasets`)."""
    found = []
    for path in list_visible(base):
        if path.is_dir() and path.name.lower() == split:
            tree = is_tree(path)
            found += [path] if tree or (path / "state.json").exists() else []
        match = re.fullmatch(split + SHARD + TABLE, path.name, re.IGNORECASE)
        found += [path] if match and path.is_file() else []
    numbers = [re.fullmatch(split + SHARD + TABLE, path.name, re.IGNORECASE) for path in found]
    if len(found) > 1 and not all(match and match["number"] for match in numbers):
        raise CourseError(f"{base} has {' and '.join(path.name for path in found)}: which are the reviews? Keep one.")
    if found and numbers[0] and numbers[0]["count"] and int(numbers[0]["count"]) != len(found):
        raise CourseError(f"{base} has {len(found)} of the {int(numbers[0]['count'])} files {split}-*: fetch the rest.")
    return found


def list_visible(folder: Path) -> list[Path]:
    """What is in a folder, in order, but for what begins with a dot, such as macOS's `._train.csv`."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def is_table(path: Path) -> bool:
    """Whether this may be a file of reviews, and not one that describes a data set."""
    name = path.name.lower()
    return path.is_file() and bool(re.search(TABLE + "$", name)) and not name.startswith(("dataset_", "state."))


def read_set(paths: list[Path]) -> Dataset:
    texts, labels = [], []
    for path in paths:
        for more, column in zip(read_tree(path) if is_tree(path) else read_table(path), (texts, labels), strict=True):
            column += more
    where = ", ".join(path.name for path in paths[:3])
    if len(texts) < 10:
        raise CourseError(f"{where} has {len(texts)} reviews; at least 10 are needed to train, validate and test.")
    if len(set(labels)) < 2:
        raise CourseError(f"{where} has only the label {labels[0]}: both 0 and 1 are needed.")
    return Dataset.from_dict({"text": texts, "label": labels})


def is_tree(path: Path) -> bool:
    return all((path / name).is_dir() for name in FOLDERS)


def read_tree(folder: Path) -> tuple[list[str], list[int]]:
    """A file a review, `neg` before `pos`."""
    texts, labels = [], []
    for name, label in FOLDERS.items():
        for path in list_visible(folder / name):
            if path.suffix == ".txt":
                try:
                    texts.append(decode(path.read_bytes()))
                except (ValueError, OSError) as error:
                    raise CourseError(f"{path}: {error}, or download and unpack it again.") from error
                labels.append(label)
    return texts, labels
