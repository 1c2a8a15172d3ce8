"""Read the files of one submission that are graded: folders, zips, zips in zips, lone files, under any usual name.

Anybody may have made them, so nothing is unpacked to disk, no size that a header claims is believed, and what one
submission does to its reader is that submission's reason not to be graded.
"""

import hashlib
import io
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from helpers.answers import NOTEBOOKS, is_copy

MEBI = 2**20
# What is read, and how large it may be; everything else is ignored.
LARGEST = {"exercises.py": MEBI // 4, "results.json": 4 * MEBI} | dict.fromkeys(NOTEBOOKS, 10 * MEBI)
MAX_ARCHIVE, MAX_INNER, MAX_UNPACKED, MAX_MEMBERS, MAX_RATIO = 256 * MEBI, 64 * MEBI, 1024 * MEBI, 20_000, 200
MAX_DIRECTORY = 4 * MEBI  # bytes of an archive's table of contents
SYSTEM = re.compile(r"\.|__MACOSX$|Thumbs\.db$|desktop\.ini$")  # what systems put beside people's files
IGNORED = re.compile(r"(^|/)(\.|__MACOSX/|__pycache__/|node_modules/|site-packages/|v?env/)")
ARCHIVE = re.compile(r"\.(zip|rar|7z|tar|tgz|gz|bz2|xz|zst)$", re.I)


class Refused(Exception):
    """Something that is not read; the message says why."""


@dataclass
class Submission:
    """A student's files by the names of the course, what was odd about them, and why none was read, if so."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: str = ""

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.refused, self.notes)).encode())
        for name, data in sorted(self.files.items()):
            digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file of a submission; `open` raises Refused where it is none of the submission's own."""

    path: str
    open: Callable[[], BinaryIO]


def read_submission(parts: list[tuple[str, Path, str]]) -> Submission:
    """Read the files that are graded, wherever in a submission's parts they lie; never raises, whatever they are.

    A part has the student's name for it, its path, and what of the archive at that path it is (empty: all).
    Of several files with the same name, the one outside archives, with the exact name, and nearest to the top counts.
    """
    submission = Submission()
    try:
        level = [entry for part in parts for entry in _list_part(submission, *part)]
        names = [entry.path[-80:] for entry in level] or ["nothing: it is empty"]
        for _ in range(3):  # as it lies there, in an archive, and in an archive in that
            _take(level, submission)
            if submission.files.keys() >= LARGEST.keys():
                break
            level = [inner for entry in level for inner in list_archive(entry, submission)]
    except Exception as error:  # MemoryError and RecursionError among them
        submission = Submission(refused=_describe(error))
    if not submission.refused and not submission.files:
        nothing = f"it has neither exercises.py nor one of the course's notebooks, but {', '.join(names[:3])}."
        submission.refused = " ".join(submission.notes[:3]) or nothing
    return submission


def _describe(error: Exception, name: str = "it") -> str:
    if isinstance(error, Refused):
        return str(error)
    return f"{name} cannot be read: {type(error).__name__}: {error!s:.200}"


def _take(entries: list[Entry], submission: Submission) -> None:
    for name, largest in LARGEST.items():
        if name in submission.files:
            continue
        ranked = []
        for entry in entries:
            folder, _, base = entry.path.rpartition("/")
            if len(base) < 300 and (base == name or is_copy(base, name)):
                ranked.append((base != name, entry.path.count("/"), folder, base, entry))
        for *_, entry in sorted(ranked, key=lambda found: found[:-1])[:5]:
            try:
                with entry.open() as stream:
                    data = stream.read(largest + 1)
                if len(data) > largest:
                    raise Refused(f"{entry.path} is larger than {largest / MEBI:g} MiB and was not read.")
            except Exception as error:
                submission.notes.append(_describe(error, entry.path[-200:]))
                continue
            if submission.files.setdefault(name, data) != data:
                submission.notes.append(f"{entry.path[:200]} is another {name} than the one that counts.")


def _list_part(submission: Submission, name: str, path: Path, inside: str) -> Iterator[Entry]:
    if inside:
        for entry in list_archive(Entry(path.name, partial(open_file, path)), submission):
            if entry.path == inside or entry.path.startswith(f"{inside}/"):
                yield Entry(name + entry.path[len(inside) :], entry.open)
        return
    if path.is_symlink():
        raise Refused("it is a link, not a file or folder of its own.")
    if not path.is_dir():
        yield Entry(name, partial(open_file, path))
        return
    count = 0
    for folder, folders, files in os.walk(path):
        start = "" if folder == str(path) else f"{Path(folder).relative_to(path).as_posix()}/"
        folders[:] = sorted(each for each in folders if not IGNORED.search(f"{each}/"))
        links = [each for each in folders if os.path.islink(f"{folder}/{each}")]
        submission.notes += [f"{start}{each} is a link to a folder, which is not looked into." for each in links[:5]]
        count += len(files) + len(folders)
        if count > MAX_MEMBERS:
            raise Refused(f"it has more than {MAX_MEMBERS:,} files.")
        for each in files:
            if not IGNORED.search(each):
                yield Entry(f"{start}{each}", partial(open_file, Path(folder, each)))


def open_file(path: Path) -> BinaryIO:
    if path.is_symlink():
        raise Refused(f"{path.name} is a link, not a file of the submission's own.")
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Refused(f"{path.name} is not an ordinary file.")
    return file


def list_archive(entry: Entry, submission: Submission) -> list[Entry]:
    """The files in an entry that is a zip, none in any other; what is wrong with it becomes a note."""
    base = entry.path.rpartition("/")[2]
    if not ARCHIVE.search(base):
        return []
    try:
        if not base.lower().endswith(".zip"):
            raise Refused(f"{base} is not a zip: unpack it into a folder, and grade again.")
        file = entry.open()
        if isinstance(file, zipfile.ZipExtFile):
            data = file.read(MAX_INNER + 1)
            if len(data) > MAX_INNER:
                raise Refused(f"{base} is an archive of more than {MAX_INNER // MEBI} MiB in another one.")
            file = io.BytesIO(data)
        archive = _open_zip(file)
        return [Entry(name, partial(_open_member, archive, member)) for name, member in _check_members(archive)]
    except Exception as error:
        submission.notes.append(_describe(error))
        return []


class _Bounded(io.BufferedReader):
    """A file of which `zipfile` reads no table of contents that is larger than an honest one."""

    largest = MAX_DIRECTORY

    def read(self, size: int = -1) -> bytes:
        if size > self.largest:
            raise Refused(f"the archive has more than {MAX_MEMBERS:,} members.")
        return super().read(size)


def _open_zip(file: BinaryIO) -> zipfile.ZipFile:
    bounded = _Bounded(file.detach() if isinstance(file, io.BufferedReader) else file)
    if bounded.seek(0, os.SEEK_END) > MAX_ARCHIVE:
        raise Refused(f"the archive is larger than {MAX_ARCHIVE // MEBI} MiB.")
    bounded.seek(0)
    try:
        archive = zipfile.ZipFile(bounded)
    except zipfile.BadZipFile as error:
        raise Refused(f"it is not a zip archive that can be read ({error}).") from error
    bounded.largest = MAX_ARCHIVE
    return archive


def _check_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The files of an archive that are not ignored, by name; Refused where the archive means harm."""
    members, seen, unpacked = archive.infolist(), set(), 0
    if len(members) > MAX_MEMBERS:
        raise Refused(f"the archive has more than {MAX_MEMBERS:,} members.")
    for member in members:
        name = member.filename.replace("\\", "/")
        shown = repr(name[:80])
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            raise Refused(f"the archive's member {shown} leads out of its folder.")
        unpacked += member.file_size
        if unpacked > MAX_UNPACKED or member.file_size > MEBI and member.file_size > MAX_RATIO * member.compress_size:
            raise Refused(f"the archive unpacks to much more than it should ({shown}): a bomb.")
        if IGNORED.search(name) or name.endswith("/"):
            continue
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen and key.rpartition("/")[2] in LARGEST:
            raise Refused(f"the archive has two members called {shown}.")
        seen.add(key)
        yield name, member


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    shown = repr(member.filename[-80:])
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise Refused(f"the archive's member {shown} is a link or a device, not a file.")
    if member.flag_bits & 1:
        raise Refused(f"the archive's member {shown} is encrypted.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"the archive's member {shown} is compressed in an unusual way: make an ordinary zip.")
    return archive.open(member)
