"""Labelled reviews from the hub, its offline cache, or a folder of files, checked and split."""

import hashlib
from pathlib import Path

import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from helpers.settings import REVISIONS, CourseError, Settings, is_hub_id

# A review may be the word "null" or a number; neither is to be taken for anything but text.
READERS = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype={"text": str}, keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
}
LABELS = {"neg": 0, "pos": 1}


def load_reviews(settings: Settings) -> DatasetDict:
    """Load `train`, `validation` and `test`, with the columns `text` and `label` (0 negative, 1 positive).

    The validation reviews are `train_test_split(test_size=0.2, seed=3463)` of the training reviews. The data may be a
    hub id, or a folder with train and test files (parquet, csv or jsonl, also in the hub's shape
    `plain_text/train-00000-of-00001.parquet`), or the unpacked aclImdb tree. Raises CourseError where
    data is missing or wrong.
    """
    folder = Path(settings.data)
    if not folder.is_dir():
        if not is_hub_id(settings.data):
            raise CourseError(
                f"There is no data folder {folder}. Give a hub id or a folder with train and test reviews."
            )
        folder = _from_hub(settings.data)
    sets = {split: _from_folder(folder, split) for split in ("train", "test")}
    parts = sets["train"].train_test_split(test_size=settings.test_size, seed=settings.split_seed)
    return DatasetDict(train=parts["train"], validation=parts["test"], test=sets["test"])


def fingerprint_reviews(reviews: DatasetDict) -> str:
    """Hash every text and label in order (SHA-256, 16 digits)."""
    digest = hashlib.sha256()
    for split in reviews.values():
        for text, label in zip(split["text"], split["label"], strict=True):
            digest.update(f"{label}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def _from_hub(name: str) -> Path:
    """Fetch the files of a hub data set, or find them in the hub's cache where there is no network."""
    try:
        patterns = [f"*{split}*{ending}" for split in ("train", "test") for ending in READERS]
        return Path(snapshot_download(name, repo_type="dataset", revision=REVISIONS.get(name), allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CourseError(
            f"The data set {name} is not a folder here, not in the hub's cache, and not to be had over the network."
            " Either work with --profile quick, which needs no network, or give a folder with --data, or run"
            " `python -m helpers prefetch` where there is a network."
            f" (The library said: {next(iter(str(error).splitlines()), type(error).__name__)})"
        ) from error


def _from_folder(folder: Path, split: str) -> Dataset:
    if all((folder / split / name).is_dir() for name in LABELS):
        paths = [
            (path, label) for name, label in LABELS.items() for path in sorted((folder / split / name).glob("*.txt"))
        ]
        rows = pd.DataFrame({"text": [_read(path) for path, _ in paths], "label": [label for _, label in paths]})
        return _checked(rows, str(folder / split))
    for ending, read in READERS.items():
        paths = sorted(
            path
            for base in (folder, folder / "data", folder / "plain_text")
            for pattern in (f"{split}{ending}", f"{split}-*{ending}")
            for path in base.glob(pattern)
        )
        if paths:
            try:
                rows = pd.concat([read(path) for path in paths], ignore_index=True)
            except (ValueError, OSError) as error:
                raise CourseError(f"Could not read {paths[0]} as {ending[1:]}: {error}") from error
            return _checked(rows, ", ".join(path.name for path in paths))
    raise CourseError(
        f"No {split} reviews in {folder}. Put {split}.parquet, {split}.csv or {split}.jsonl there, with the columns"
        " text and label, or unpack the archive aclImdb_v1.tar.gz and give its folder aclImdb."
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not UTF-8 text: download or unpack it again.") from error


def _checked(rows: pd.DataFrame, where: str) -> Dataset:
    missing = [column for column in ("text", "label") if column not in rows]
    if missing:
        raise CourseError(
            f"{where} has no column {' and no column '.join(missing)}; it has: {', '.join(map(str, rows.columns))}."
            " Rename the columns to text and label."
        )
    if len(rows) < 10:
        raise CourseError(f"{where} has {len(rows)} reviews; at least 10 are needed to train, validate and test.")
    labels = pd.to_numeric(rows["label"].astype(str), errors="coerce")
    wrong = rows["label"][~labels.isin([0, 1])]
    if len(wrong):
        raise CourseError(
            f"{where}, row {wrong.index[0]}: the label is {wrong.tolist()[0]!r},"
            " but must be 0 (negative) or 1 (positive)."
        )
    empty = rows["text"].map(lambda text: not isinstance(text, str) or not text.strip())
    if empty.any():
        raise CourseError(f"{where}, row {empty.idxmax()}: the text is empty. Remove the row or fill it in.")
    if labels.nunique() < 2:
        raise CourseError(f"{where} has only the label {int(labels.iloc[0])}: both 0 and 1 are needed.")
    return Dataset.from_dict({"text": rows["text"].tolist(), "label": labels.astype(int).tolist()})
