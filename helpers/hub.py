"""The hub: find the folder of a model or data set, in the cache or over the network, or raise one clear error."""

import os
import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from helpers.settings import REVISIONS, CourseError, is_hub_id, is_there, short_name

ONE_TABLE = r"(?!train|test|unsup|dataset_).*\.(parquet|csv|tsv|jsonl?)(\.gz)?"  # with all reviews
# The files of a complete folder. The second list in FETCHED (such as old-format weights) is fetched only if needed.
NEEDED = {
    "model": (r"config\.json", r"vocab\.txt|tokenizer\.json", r"model.*\.safetensors|pytorch_model.*\.bin"),
    "dataset": (rf"(?i)train.*\.\w+|{ONE_TABLE}", rf"(?i)test.*\.\w+|{ONE_TABLE}"),
}
ENDINGS = ("parquet", "csv", "tsv", "json")
FETCHED = {
    "model": (["*.json", "vocab.txt", "model*.safetensors"], ["pytorch_model*.bin"]),
    "dataset": (
        [f"*{split}*.{ending}*" for split in ("[Tt]rain", "[Tt]est") for ending in ENDINGS],
        [f"*.{ending}*" for ending in ENDINGS],
    ),
}
# Environment variables that affect how the hub is reached.
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
VARIABLES += ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


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
        for patterns in FETCHED[kind]:
            folder = Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=patterns))
            if is_whole(folder, kind):
                break
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"it has no file that matches {', '.join(patterns)}")
        return folder
    except Exception as error:
        if folder := find_cached(name, kind):
            return folder
        raise CourseError(
            f"The {what} {short_name(name)} is neither a folder here nor in the hub's cache, and cannot be downloaded."
            " Give a folder, or run this where there is a network: `python -m helpers prefetch` downloads what the"
            " profile full needs. With --profile quick, no network is needed. (The reason:"
            f" {first_line(error)}{describe_variables()})"
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
    """Whether there is a file of each needed kind. (Missing numbered parts are reported when the files are read.)"""
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    return all(any(re.fullmatch(pattern, file) for file in files) for pattern in NEEDED[kind])


def find_pointer(path: Path) -> str:
    """What to do if git or a copy left only a pointer in place of this file or a file in this folder; else empty."""
    for file in (path, *path.glob("*")):
        if file.is_symlink() and not os.path.exists(file):  # As in a snapshot copied out of the hub's cache.
            return f"{file.name} is a link to a file that is not here: copy the file itself (cp -L), or download it"
        with suppress(OSError), file.open("rb") as content:  # A folder cannot be opened.
            if content.read(23) == b"version https://git-lfs":
                return f"{file.name} is a Git LFS pointer, not the file: run git lfs pull, or download it again"
    return ""


def first_line(error: BaseException) -> str:
    """An error's message on one line, without the full stop at its end."""
    said = " ".join(str(error).split())
    return (said if " " in said else f"{type(error).__name__} {said}").strip()[:300].rstrip(".: ")


def describe_variables() -> str:
    """Which of these variables are set, without their values: a proxy's may contain a password."""
    found = [name for name in VARIABLES if name in os.environ or name.lower() in os.environ]
    return f"; check {', '.join(found)}, set here" if found else ""
