"""Labelled reviews from the hub, its offline cache, a folder or a single file: checked, and split."""

import hashlib
import os
import re
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from helpers.hub import find_folder
from helpers.settings import CourseError, Settings, is_there
from helpers.tables import OTHERS, SPLITS, is_tree, list_visible, read_table

# A file of reviews, possibly one of several numbered as on the hub, but not a file that describes a `datasets` folder.
TABLE = re.compile(
    r"(?!(dataset_(infos?|dict)|state)\.)(?P<name>.*?)(-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?)?"
    r"\.(parquet|(csv|tsv|jsonl?|ndjson)(\.gz)?)",
    re.IGNORECASE,
)


def load_reviews(settings: Settings) -> DatasetDict:
    """Load `train`, `validation` and `test`, with the columns `text` and `label` (0 negative, 1 positive).

    The data may be a hub id; a folder with train and test files (parquet, csv, tsv, json, jsonl or ndjson; the text
    formats also as .gz), directly, in a subfolder (`plain_text/train-00000-of-00001.parquet`), or in folders train and
    test; one of these files; the unpacked aclImdb tree, or just one `neg` and one `pos` folder; a `save_to_disk`
    folder; or one file with all reviews. A single set is split as its column split (or type, or set) says if that names
    train and test, otherwise into halves, as IMDb is, by `train_test_split(test_size=0.5, seed=3463)`: not the same
    halves as in the published experiment. The validation reviews are `train_test_split(test_size=0.2, seed=3463)` of
    the training reviews. Rows, files and folders called unsup or validation, and hidden files, are not used. Raises
    CourseError if data is missing or malformed.
    """
    given = Path(settings.data)
    sources = {"all": [given]}
    if not os.path.isfile(given):
        sources = find_sources(find_folder(settings.data, "dataset"))
    elif name_split(given.name) in SPLITS:  # The other one is beside it.
        sources = find_sources(given)
    sets = {split: concatenate_datasets([*map(read_table, paths)]) for split, paths in sources.items()}
    if "all" in sets and "split" in (whole := sets["all"]).column_names:
        rows = {split: [row for row, name in enumerate(whole["split"]) if name == split] for split in SPLITS}
        sets = {split: whole.select(rows[split]) for split in SPLITS}
    for split, rows in sets.items():
        names = ", ".join(path.name for path in sources.get(split, sources.get("all"))[:3])
        check_set(rows, f"{names} ({split})")
    if "all" in sets:
        sets = sets["all"].train_test_split(test_size=0.5, seed=settings.split_seed)
    parts = sets["train"].train_test_split(test_size=settings.test_size, seed=settings.split_seed)
    reviews = DatasetDict(train=parts["train"], validation=parts["test"], test=sets["test"])
    return reviews.select_columns(["text", "label"])


def fingerprint_reviews(reviews: DatasetDict) -> str:
    """Hash every text and label in order (SHA-256, 16 digits)."""
    digest = hashlib.sha256()
    for split in reviews.values():
        for text, label in zip(split["text"], split["label"], strict=True):
            digest.update(f"{label}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def name_split(name: str) -> str:
    """The split that a file is named after: `train` for `Train.csv` and `train-00000-of-00002.parquet`."""
    match = TABLE.fullmatch(name)
    return (match["name"] if match else name.split(".")[0]).lower()


def find_sources(given: Path) -> dict[str, list[Path]]:
    """Where `train` and `test`, or `all`, are: beside a file; in a folder, or else in one of its subfolders."""
    folder = given if os.path.isdir(given) else given.parent
    inside = [path for path in list_visible(folder) if os.path.isdir(path) and path.name.lower() not in SPLITS]
    inside = [path for path in inside if given == folder and os.access(path, os.R_OK | os.X_OK)]  # not `lost+found`
    there = {base: find_splits(base) for base in (folder, *inside)}
    whole = [base for base, found in there.items() if len(found) == len(SPLITS)]
    if len(whole) > 1 and folder not in whole:
        names = " and ".join(base.name for base in whole)
        raise CourseError(f"{folder} has reviews in {names}. Give the folder of those that you want to use.")
    if whole:
        return {split: check_files(split, there[whole[0]][split]) for split in SPLITS}
    tables = list_tables(folder) + [folder] * (is_tree(folder) or (folder / "state.json").exists())
    only_one = folder.name.lower() in SPLITS  # The other one is not in this folder.
    if len(tables) == 1 and not any(there.values()) and not only_one:
        return {"all": tables}
    seen = ", ".join(path.name + "/" * os.path.isdir(path) for path in list_visible(folder)[:8]) or "nothing"
    missing = [split for split in SPLITS if not any(split in found for found in there.values())]
    above = f" Give the folder above, {folder.parent}, if it has both. Otherwise, put" if only_one else " Put"
    if only_one and len(tables) == 1 and tables[0] != folder:
        above = f" If {tables[0].name} has all reviews, give that file.{above}"
    if (folder / "snapshots").is_dir():  # The hub's cache of one data set.
        above = f" Give the folder in {folder / 'snapshots'}. Otherwise, put"
    raise CourseError(
        f"No {(missing or SPLITS)[0]} reviews in {folder}, which has: {seen}.{above} train.csv and test.csv there (or"
        " parquet, json, jsonl), or one file of another name with all reviews; the columns must be text and label. Or"
        " unpack the archive aclImdb_v1.tar.gz and give its folder aclImdb."
    )


def list_tables(folder: Path) -> list[Path]:
    return [path for path in list_visible(folder) if not os.path.isdir(path) and TABLE.fullmatch(path.name)]


def find_splits(base: Path) -> dict[str, list[Path]]:
    """The files of each split that exists, or its folder if that is one set of reviews, or else the files in it."""
    found: dict[str, list[Path]] = {}
    for path in list_visible(base):
        is_folder = os.path.isdir(path)
        name = path.name.lower() if is_folder else name_split(path.name)
        is_set = is_tree(path) or os.path.exists(path / "state.json") if is_folder else TABLE.fullmatch(path.name)
        if name in SPLITS and is_set:
            found.setdefault(name, []).append(path)
    for path in (base / name for name in SPLITS if name not in found and os.path.isdir(base / name)):
        tables = list_tables(path) if is_there(path) else []
        if files := [table for table in tables if name_split(table.name) not in OTHERS]:
            found[path.name] = files
    return found


def check_files(split: str, paths: list[Path]) -> list[Path]:
    """Reject several files unless they are numbered parts of one set, and incomplete sets of parts."""
    parts = [TABLE.fullmatch(path.name) for path in paths]
    numbers, counts = ({part and part[name] for part in parts} for name in ("number", "count"))
    if len(paths) > 1 and (None in numbers or len(numbers) < len(paths) or len(counts) > 1):
        names = " and ".join(path.name for path in paths)
        raise CourseError(f"{paths[0].parent} has {names}: which are the reviews? Keep one, or the parts of one.")
    if len(paths) < (count := int(counts.pop() or 1)):
        raise CourseError(f"{paths[0].parent} has {len(paths)} of the {count} files {split}-*: fetch the rest.")
    return paths


def check_set(rows: Dataset, where: str) -> None:
    if len(rows) < 10:
        raise CourseError(f"{where} has {len(rows)} reviews; at least 10 are needed to train, validate and test.")
    if len(set(rows["label"])) < 2:
        raise CourseError(f"{where} has only the label {rows['label'][0]}: both 0 and 1 are needed.")
