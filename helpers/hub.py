"""The hub: find the folder of a model or data set, in the cache or over the network, or raise one clear error."""

import os
import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from helpers.settings import REVISIONS, CourseError, is_hub_id, is_there

# The files that are fetched, and those of them that are not.
FETCHED = {
    "model": ["*.json", "vocab.txt", "model*.safetensors", "pytorch_model*.bin"],
    "dataset": [f"*.{ending}*" for ending in ("parquet", "csv", "tsv", "json")],
}
IGNORED = {"model": None, "dataset": ["*unsup*", "dataset_*.json"]}
# The files of a complete model.
NEEDED = (r"config\.json", r"vocab\.txt|tokenizer\.json", r"model.*\.safetensors|pytorch_model.*\.bin")
PROXIES = "check HTTPS_PROXY, ALL_PROXY, HF_ENDPOINT and REQUESTS_CA_BUNDLE if they are set"


def find_folder(name: str, kind: str = "model") -> Path:
    """The folder of a `model` or a `dataset`: the path itself, or the hub's snapshot, downloaded if necessary.

    A pinned revision in the cache is used without any network access. Raises CourseError if nothing is found, whatever
    the libraries raise: proxies alone cause five kinds of errors.
    """
    what = "data" if kind == "dataset" else kind
    if is_there(name) and os.path.isdir(name):
        return Path(name)
    if not is_hub_id(name):
        places = "a hub id (OWNER/NAME) or a folder" + " or file" * (kind == "dataset")
        raise CourseError(f"There is no {what} folder {name}. Give {places}.")
    revision = REVISIONS.get(name)
    if revision and (folder := find_cached(name, kind)):
        return folder
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10)  # The download would retry six times.
        patterns = {"allow_patterns": FETCHED[kind], "ignore_patterns": IGNORED[kind]}
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, **patterns))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"it has no file that matches {', '.join(FETCHED[kind])}")
        return folder
    except Exception as error:
        if folder := find_cached(name, kind):
            return folder
        raise CourseError(
            f"The {what} {name} is neither a folder here nor in the hub's cache, and cannot be downloaded."
            " Give a folder, or run this where there is a network: `python -m helpers prefetch` downloads what the"
            " profile full needs. With --profile quick, no network is needed. (The reason:"
            f" {first_line(error)}; {PROXIES}.)"
        ) from error


def find_cached(name: str, kind: str) -> Path | None:
    """The snapshot in the hub's cache, at the revision that the course uses, if it is complete."""
    try:
        # Without patterns, version 2 would ask for every file of the repository, also for those never fetched.
        options = {"allow_patterns": [], "local_files_only": True}
        found = snapshot_download(name, repo_type=kind, revision=REVISIONS.get(name), **options)
    except Exception:  # Not there, or in a cache that cannot be read.
        return None
    return Path(found) if is_whole(Path(found), kind) else None


def is_whole(folder: Path, kind: str) -> bool:
    """Whether no download was interrupted. (Missing numbered parts are reported when the files are read.)"""
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    if kind == "model":
        return all(any(re.fullmatch(pattern, file) for file in files) for pattern in NEEDED)
    train, test = (any(split in file.lower() for file in files) for split in ("train", "test"))
    return bool(files) and train == test


def first_line(error: BaseException) -> str:
    """An error's message on one line, without the full stop at its end."""
    said = " ".join(str(error).split())
    return (said if " " in said else f"{type(error).__name__} {said}").strip()[:300].rstrip(".: ")
