"""Labelled reviews from the hub, its offline cache, a folder or a single file: checked, and split."""

import hashlib
import os
import re
from collections import defaultdict
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from helpers.hub import find_folder
from helpers.settings import CourseError, Settings
from helpers.tables import LABELS, OTHERS, SPLITS, is_tree, list_visible, read_table, spell

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
    folder; or one file with all reviews. A single set is split as its column split (or type) says if that names train
    and test, otherwise into halves, as IMDb is, by `train_test_split(test_size=0.5, seed=3463)`: not the same halves as
    in the published experiment. The validation reviews are `train_test_split(test_size=0.2, seed=3463)` of the training
    reviews. Rows, files and folders called unsup or validation, and hidden files, are not used. Raises CourseError if
    data is missing or malformed.
    """
    given = Path(settings.data)
    if not os.path.isfile(given):
        sources = find_sources(find_folder(settings.data, "dataset"))
    elif name_split(given.name) in SPLITS:  # The other one is beside it.
        sources = find_sources(given.parent, depth=0)
    else:
        sources = {"all": [given]}
    sets = {split: concatenate_datasets([*map(read_table, paths)]) for split, paths in sources.items()}
    if "all" in sets and {*SPLITS} <= {*(names := sets["all"]["split"])}:
        if unknown := {*names} - {*SPLITS, *OTHERS}:
            raise CourseError(f"{given} has the split {min(unknown)!r}, but must have train, test or validation.")
        rows = {split: [row for row, name in enumerate(names) if name == split] for split in SPLITS}
        sets = {split: sets["all"].select(rows[split]) for split in SPLITS}
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


def list_sets(folder: Path, depth: int) -> list[Path]:
    """The folder itself, if it is a set of reviews, and the tables and such folders up to so many levels below it."""
    found = [folder] if is_tree(folder) or (folder / "state.json").exists() else []
    for path in list_visible(folder):
        if path.is_dir():
            wanted = depth and spell(path.name) not in (*LABELS, *OTHERS)
            found += list_sets(path, depth - 1) if wanted and os.access(path, os.R_OK | os.X_OK) else []
        elif TABLE.fullmatch(path.name) and name_split(path.name) not in OTHERS:
            found.append(path)
    return found


def find_sources(folder: Path, depth: int = 4) -> dict[str, list[Path]]:
    """Where `train` and `test`, or `all`, are: in the folder, or else so many levels below it."""
    found: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    others = []
    for path in list_sets(folder, depth):
        parts = path.relative_to(folder).parts
        names = [*(part.lower() for part in parts[:-1]), *map(name_split, parts[-1:])]
        if split := next((name for name in names if name in SPLITS), None):
            found[folder.joinpath(*parts[: names.index(split)])][split].append(path)
        else:
            others.append(path)
    whole = sorted((base for base in found if len(found[base]) == len(SPLITS)), key=lambda base: len(base.parts))
    if len(whole) > 1 and folder not in whole:
        names = " and ".join(str(base.relative_to(folder)) for base in whole)
        raise CourseError(f"{folder} has reviews in {names}. Give the folder of those that you want to use.")
    if whole:
        return {split: check_parts(split, found[whole[0]][split]) for split in SPLITS}
    if len(others) == 1 and not found and folder.name.lower() not in SPLITS:  # The other one is not in this folder.
        return {"all": others}
    seen = ", ".join(path.name + "/" * path.is_dir() for path in list_visible(folder)[:8]) or "nothing"
    missing = [split for split in SPLITS if not any(split in sets for sets in found.values())] or SPLITS
    above = " Give the folder above if it has both." if folder.name.lower() in SPLITS else ""
    raise CourseError(
        f"No {' and '.join(missing)} reviews in {folder}, which has: {seen}.{above} Put train.csv and test.csv there"
        " (or parquet, json, jsonl), or one file of another name with all reviews; the columns must be text and label."
        " Or unpack the archive aclImdb_v1.tar.gz and give its folder aclImdb."
    )


def check_parts(split: str, paths: list[Path]) -> list[Path]:
    """Reject several files or folders unless they are all the numbered parts of one set."""
    parts = [TABLE.fullmatch(path.name) for path in paths]
    counts = {int(part["count"] or 1) if part else 1 for part in parts}
    if counts != {len({part and part["number"] for part in parts})} or counts != {len(paths)}:
        names = " and ".join(map(str, paths[:3]))
        raise CourseError(f"The {split} reviews are in {names}. Keep one of these, or all the parts of one set.")
    return paths


def check_set(rows: Dataset, where: str) -> None:
    if len(rows) < 10:
        raise CourseError(f"{where} has {len(rows)} reviews; at least 10 are needed to train, validate and test.")
    if len(set(rows["label"])) < 2:
        raise CourseError(f"{where} has only the label {rows['label'][0]}: both 0 and 1 are needed.")
