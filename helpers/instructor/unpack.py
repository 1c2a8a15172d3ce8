"""Read a submission, a zip or a folder that anybody may have made, without unpacking anything to disk."""

import hashlib
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from helpers import submit

MEBI = 2**20
NOTEBOOKS = tuple(f"notebooks/{name}" for name in submit.NOTEBOOKS)
# What is read, and how large it may be; everything else is ignored.
LARGEST = {"exercises.py": MEBI // 4, "helpers/exercises.py": MEBI // 4, "results.json": 4 * MEBI}
LARGEST |= {name: 10 * MEBI for name in NOTEBOOKS}
MAX_ARCHIVE, MAX_UNPACKED, MAX_MEMBERS, MAX_RATIO = 256 * MEBI, 1024 * MEBI, 20_000, 200


class Refused(Exception):
    """A submission that is not read at all; the message says why."""


@dataclass
class Submission:
    """A student's files by name, what was odd about them, and why none was read, if so."""

    student: str
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: str = ""

    @property
    def exercises(self) -> bytes | None:
        return self.files.get("exercises.py", self.files.get("helpers/exercises.py"))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.refused.encode())
        for name, data in sorted(self.files.items()):
            digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()


def find_submissions(paths: list[Path]) -> list[tuple[str, Path]]:
    """Zips and folders of submissions, each with a student's name of its own; a folder may hold many of them."""
    found = []
    for path in paths:
        if path.is_dir() and not looks_like_one(path):
            parts = sorted(part for part in path.iterdir() if not part.name.startswith((".", "__MACOSX")))
            found += [part for part in parts if part.is_dir() or part.suffix.lower() == ".zip"]
        else:
            found.append(path)
    named, taken = [], set()
    for path in found:
        first = name = clean_name(path.stem if path.suffix.lower() == ".zip" else path.name)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.casefold())
        named.append((name, path))
    return named


def looks_like_one(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("exercises.py", "helpers", "notebooks"))


def clean_name(name: str) -> str:
    """A name that is safe as a file's, in a table and in Markdown."""
    name = re.sub(r"[^\w.@-]+", "_", unicodedata.normalize("NFKC", name)).strip("._-")
    return name[:60] or "submission"


def read_submission(student: str, path: Path) -> Submission:
    """Read the files that are graded; never raises, whatever the submission is."""
    submission = Submission(student)
    try:
        if path.is_dir():
            _read_folder(path, submission)
        else:
            _read_zip(path, submission)
    except Refused as reason:
        submission.refused, submission.files = str(reason), {}
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        submission.refused = f"it cannot be read: {type(error).__name__}: {str(error)[:200]}"
        submission.files = {}
    if not submission.refused and not submission.files:
        submission.refused = "it has neither exercises.py nor one of the course's notebooks."
    return submission


def _read_folder(folder: Path, submission: Submission) -> None:
    for name, largest in LARGEST.items():
        path = folder
        for part in name.split("/"):
            path = path / part
            if path.is_symlink():
                raise Refused(f"{path.relative_to(folder)} is a link, not a file of the submission's own.")
        if not os.path.lexists(path):
            continue
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Refused(f"{name} is not an ordinary file.")
            data = file.read(largest + 1)
        _keep(name, data, largest, submission)


def _read_zip(path: Path, submission: Submission) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refused("it is neither a folder nor an ordinary file.")
        if os.fstat(handle).st_size > MAX_ARCHIVE:
            raise Refused(f"the archive is larger than {MAX_ARCHIVE // MEBI} MiB.")
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = _check_members(archive)
            prefix = _common_folder([name for name in members if not name.endswith("/")])
            for name, largest in LARGEST.items():
                member = members.get(prefix + name)
                if member is not None:
                    with archive.open(member) as stream:
                        _keep(name, stream.read(largest + 1), largest, submission)


def _check_directory(file) -> None:
    """Look at the archive's end before the library makes an object of each of its entries."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_600))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise Refused("it is not a zip archive.")
    entries, length = struct.unpack("<HI", tail[at + 10 : at + 16])
    if entries > MAX_MEMBERS or length > 200 * MAX_MEMBERS or tail.find(b"PK\6\7") >= 0:
        raise Refused(f"the archive has more than {MAX_MEMBERS:,} members.")
    file.seek(0)


def _check_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    seen, unpacked = set(), 0
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        shown = repr(name[:80])
        if name.startswith("__MACOSX/") or name.endswith(".DS_Store"):
            continue
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            raise Refused(f"the archive's member {shown} leads out of its folder.")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(f"the archive's member {shown} is a link or a device, not a file.")
        if member.flag_bits & 1:
            raise Refused("the archive is encrypted.")
        key = unicodedata.normalize("NFC", name).casefold().rstrip("/")
        if key in seen:
            raise Refused(f"the archive has two members called {shown}.")
        seen.add(key)
        unpacked += member.file_size
        if unpacked > MAX_UNPACKED or member.file_size > MEBI and member.file_size > MAX_RATIO * member.compress_size:
            raise Refused(f"the archive unpacks to much more than it should ({shown}): a bomb.")
        members[name] = member
    return members


def _common_folder(names: list[str]) -> str:
    """Many an archive has everything in one folder, named after the student or the course."""
    prefix = ""
    while names and "/" in names[0][len(prefix) :]:
        if any(prefix + known in names for known in LARGEST):
            break
        longer = names[0][: names[0].index("/", len(prefix)) + 1]
        if not all(name.startswith(longer) for name in names):
            break
        prefix = longer
    return prefix


def _keep(name: str, data: bytes, largest: int, submission: Submission) -> None:
    if len(data) > largest:
        submission.notes.append(f"{name} is larger than {largest / MEBI:g} MiB and was not read.")
    else:
        submission.files[name] = data
