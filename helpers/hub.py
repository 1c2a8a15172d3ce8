"""The hub: the folder of a model or data set, from its cache or over the network, or one clear sentence."""

import os
import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.utils import get_session

from helpers.settings import REVISIONS, CourseError, is_hub_id, is_there, short_name

# What a whole folder has. What stands second in FETCHED, such as weights of the old kind, is fetched only if need be.
NEEDED = {
    "model": (r"config\.json", r"vocab\.txt|tokenizer\.json", r"model.*\.safetensors|pytorch_model.*\.bin"),
    "dataset": (r"(?i)train.*\.\w+", r"(?i)test.*\.\w+"),
}
ENDINGS = ("parquet", "csv", "tsv", "json")
FETCHED = {
    "model": (["*.json", "vocab.txt", "model*.safetensors"], ["pytorch_model*.bin"]),
    "dataset": (
        [f"*{split}*.{ending}*" for split in ("[Tt]rain", "[Tt]est") for ending in ENDINGS],
        [f"*.{ending}*" for ending in ENDINGS],
    ),
}
# What decides how the hub is reached.
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
VARIABLES += ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def find_folder(name: str, kind: str = "model") -> Path:
    """The folder of a `model` or a `dataset`: the path itself, or the hub's snapshot, fetched if need be.

    A pinned revision that is in the cache is taken from there without a word to the network. Raises CourseError
    where there is nothing to be had, whatever the libraries raise: a proxy alone gives errors of five kinds.
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
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10)  # What follows would try six times.
        for patterns in FETCHED[kind]:
            folder = Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=patterns))
            if is_whole(folder, kind):
                break
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"it has no file of the kind {', '.join(patterns)}")
        return folder
    except Exception as error:
        if folder := find_cached(name, kind):
            return folder
        raise CourseError(
            f"The {what} {short_name(name)} is not a folder here, not in the hub's cache, and not to be had over the"
            " network. Give a folder, or run this where there is a network: `python -m helpers prefetch` fetches what"
            " the profile full needs. With --profile quick the assignment needs none. (The reason:"
            f" {first_line(error)}{describe_variables()})"
        ) from error


def find_cached(name: str, kind: str) -> Path | None:
    """The snapshot in the hub's cache, at the revision that the course reads, if all of it is there."""
    try:
        found = snapshot_download(name, repo_type=kind, revision=REVISIONS.get(name), local_files_only=True)
    except Exception:  # Not there, or a cache that may not be read: in either case not to be had.
        return None
    return Path(found) if is_whole(Path(found), kind) else None


def is_whole(folder: Path, kind: str) -> bool:
    """Whether a file of each kind that is needed is there; that a numbered part is missing, its reader says."""
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    return all(any(re.fullmatch(pattern, file) for file in files) for pattern in NEEDED[kind])


def find_pointer(path: Path) -> str:
    """What to do where git or a copy left only the pointer of a file, or of one in a folder; else nothing."""
    for file in (path, *path.glob("*")):
        if file.is_symlink() and not os.path.exists(file):  # As in a snapshot of the hub's cache, copied without more.
            return f"{file.name} is a link to a file that is not here: copy the file itself (cp -L), or download it"
        with suppress(OSError), file.open("rb") as content:  # A folder cannot be opened.
            if content.read(23) == b"version https://git-lfs":
                return f"{file.name} is a Git LFS pointer, not the file: run git lfs pull, or download it again"
    return ""


def first_line(error: BaseException) -> str:
    """What an error says, on one line, without a full stop at its end."""
    said = " ".join(str(error).split())
    return (said if " " in said else f"{type(error).__name__} {said}").strip()[:300].rstrip(".: ")


def describe_variables() -> str:
    """Which of the variables that lead to the hub are set, without their values: a proxy's may hold a password."""
    found = [name for name in VARIABLES if name in os.environ or name.lower() in os.environ]
    return f"; look at {', '.join(found)}, set here" if found else ""


def call_hub() -> str:
    """Ask the hub for a sign of life, as its library does; returns why there is none, or nothing."""
    if constants.HF_HUB_OFFLINE:
        return "not tried, since HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception as error:  # A proxy alone gives errors of five kinds, ImportError among them.
        return f"{constants.ENDPOINT} does not answer ({first_line(error)}{describe_variables()})"
    return ""
