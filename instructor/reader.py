"""Read the graded files of one submission: folders, zips, zips in zips, single files, under any usual name.

They are untrusted, so nothing is unpacked to disk, and no file is read beyond its maximum size. The reader has limits;
a submission that breaks them is not graded.
"""

import hashlib
import io
import os
import posixpath
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from helpers.answers import MAX_SIZE, NOTEBOOKS, is_copy
from instructor.limits import MEBI

# The files that are read, and their maximum sizes; everything else is ignored.
LARGEST = {"exercises.py": MEBI // 4, "results.json": 4 * MEBI} | dict.fromkeys(NOTEBOOKS, MAX_SIZE)
MAX_INNER = 64 * MEBI  # bytes of an archive in an archive
# Files that operating systems add, and folders of installed software.
IGNORED = re.compile(
    r"(^|/)(\.(?!\.|zip$)|~\$|(__MACOSX|@eaDir)(/|$)|Thumbs\.db$|desktop\.ini$"
    r"|__pycache__/|node_modules/|site-packages/|v?env/)"
)
ARCHIVE = re.compile(r"(\.tar|\.zip|\.7z)?\.(zipx?|rar|7z|tar|t[gbx]z2?|gz|bz2|xz|zst|lzma|z|001)$", re.I)
PAPERS = (".pdf", ".docx", ".doc", ".odt", ".pages", ".rtf")
LIKE_PAPERS = (*PAPERS, ".txt", ".md", ".html", ".tex", ".png", ".jpg", ".jpeg")  # if a notebook is missing
# The names that Moodle and Canvas give to files: the part that identifies a student, then the student's own name.
PLATFORMS = (
    r"(.+_\d+)_assignsubmission_[a-z]+_?(.*)",
    # Canvas's names have no capitals. Not a year or date, nor a student number after a sheet's: hw_3_12345_ann.zip
    r"(anon(?:_LATE)?_\w{5}|[^_A-Z]+(?i:_LATE)?_(?!\d\d?_\d{5}|20[23]\d(?:[01]\d[0-3]\d)?_)[1-9]\d*)"
    r"_(?!20[23]\d(?:[01]\d[0-3]\d)?_)\d{4,}_(.+)",
)
# What does not tell one student's file from another's: what students call copies, versions and parts of their work.
COMMON = re.compile(
    r"copy|kopie|copia|of|von|final|old|new|draft|fixed|backup|vers\w*|v\d+|(?<!\d)\d{1,2}(?!\d)|code|notebooks?|books?"
    r"|helpers|submission|exercises?|results?|homework|hw|assignment|main|zip|py|[\W_]",
    re.I,
)
Part = tuple[Path, str]  # a path, and a place in the archive at that path (empty: all of it)


class Refused(Exception):
    """Something is not read; the message says why."""


@dataclass
class Submission:
    """A student's files by the course's names, notes on what was odd about them, and, if none was read, the reason."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: str = ""

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a submission, on disk or in an archive; `open` raises Refused for links and other special files."""

    path: str
    open: Callable[[], BinaryIO]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def read(self, largest: int) -> bytes:
        """The whole content; Refused if that is more than `largest` bytes."""
        with self.open() as stream:
            data = stream.read(largest + 1)
        if len(data) > largest:
            raise Refused(f"{self.path[-200:]} is larger than {largest / MEBI:g} MiB and was not read.")
        return data


def read_submission(parts: list[Part]) -> Submission:
    """Read the graded files, wherever in a submission's parts they are; never raises, whatever they contain.

    Of several files with the same name, the one outside archives, with the exact name, nearest to the top, and with the
    highest number in its path counts.
    """
    submission, strangers, names = Submission(), [], []
    try:
        level = [file for part in parts for file in _list_part(submission, *part)]
        for _ in range(3):  # as handed in, in an archive, and in an archive in an archive
            names = [file.path[-80:] for file in level] + names
            _take(level, submission)
            strangers += [file.path[-80:] for file in level if not is_graded(file.name)]
            if submission.files.keys() >= LARGEST.keys():
                break
            level = [inner for file in level for inner in _list_archive(file, submission)]
    except Exception as error:  # MemoryError and RecursionError among them
        submission = Submission(refused=_describe(error, "it"))
    lacking = {Path(name).suffix: name for name in ("exercises.py", *NOTEBOOKS[::-1]) if name not in submission.files}
    like = {path: lacking[end] for path in strangers if (end := os.path.splitext(path)[1]) in lacking}
    advice = [f"If {name} is {path}, rename it." for path, name in like.items()][:3]
    if submission.files:
        endings = LIKE_PAPERS if ".ipynb" in lacking else PAPERS
        papers = [path for path in strangers if path.lower().endswith(endings)][:3]
        submission.notes += advice + [f"Not read, though it may have answers: {', '.join(papers)}."] * bool(papers)
    elif not submission.refused:
        shown = ", ".join(names[:3]) or "nothing: it is empty"
        nothing = f"it has neither exercises.py nor one of the course's notebooks, but {shown}."
        submission.refused = " ".join([*(submission.notes[:3] or [nothing]), *advice])
    return submission


def _describe(error: Exception, name: str) -> str:
    known = isinstance(error, Refused)
    return str(error) if known else f"{name} cannot be read: {type(error).__name__}: {error!s:.200}"


def _take(files: list[File], submission: Submission) -> None:
    for name, largest in LARGEST.items():
        copies = [file for file in reversed(files) if is_copy(file.name, name)]  # as unzip, of two the last
        ranks = {file.path: (file.name != name, file.path.count("/")) for file in copies}
        copies.sort(key=lambda file: (ranks[file.path], *_order_versions(file.path)))
        if name == "exercises.py" and name not in submission.files:
            _check_one_student([path for path in ranks if ranks[path] == ranks[copies[0].path]])
        for file in copies[:5]:
            try:
                if submission.files.setdefault(name, data := file.read(largest)) != data:
                    submission.notes.append(f"{file.path[:200]} is another {name} than the one that counts.")
            except Exception as error:
                submission.notes.append(_describe(error, file.path[-200:]))


def _order_versions(path: str) -> tuple[str, list[int]]:
    """A key that sorts `Version 10` before `Version 9`, and paths that differ in more than numbers by name."""
    return re.sub(r"\d", "", path), [-int(number or 0) for number in re.findall(r"\D(\d{0,18})", f"/{path}")]


def _check_one_student(paths: list[str]) -> None:
    """Raise Refused if files that could all count differ in more than the names of versions."""
    top = f"{posixpath.commonpath(paths)}/" if len(paths) > 1 else ""
    owners = {COMMON.sub("", path.removeprefix(top).lower()): path for path in sorted(paths)}
    if len(owners.keys() - {""}) > 1:
        names = " and ".join(path[-80:] for owner, path in owners.items() if owner)
        raise Refused(
            f"it seems to be several students' work ({names:.200}). If it is, unpack it, and grade the folder with"
            " a zip or a folder for each of them by itself; if not, leave one of these files."
        )


def _list_part(submission: Submission, path: Path, inside: str) -> Iterator[File]:
    """The files of a part, by the student's own names for them."""
    name = posixpath.basename(inside) or path.name
    name = (match_platform(name) or ("", name))[1]
    if inside:
        for file in _list_archive(File(path.name, partial(_open_file, path)), submission, inside):
            yield replace(file, path=name + file.path[len(f"{path.name}/{inside}") :])
        return
    if path.is_symlink():
        raise Refused("it is a link, not a file or folder.")
    if not path.is_dir():
        yield File(name, partial(_open_file, path))
        return
    notes = submission.notes
    for folder, folders, files in os.walk(path, onerror=lambda error: notes.append(_describe(error, "a folder"))):
        here = Path(folder)
        folders[:] = sorted(each for each in folders if not IGNORED.search(f"{each}/"))
        for each in folders:
            if (here / each).is_symlink():
                notes.append(f"{each} is a link to a folder, which was not read.")
        for each in files:
            if not IGNORED.search(each):
                yield File((here / each).relative_to(path).as_posix(), partial(_open_file, here / each))


def _open_file(path: Path) -> BinaryIO:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Refused(f"{path.name} is not an ordinary file: it is a link, a pipe or a device.")
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _list_archive(file: File, submission: Submission, inside: str = "") -> list[File]:
    """The files in (a folder of) a zip, and none for other files; problems become notes."""
    try:
        if not ARCHIVE.search(file.name):
            return []
        if not file.name.lower().endswith(".zip"):
            raise Refused(f"{file.name} is not a zip: unpack it into a folder, and grade again.")
        archive = _open_zip(file)
        return [
            File(f"{file.path}/{name}", partial(_open_member, archive, member))
            for name, member in _list_members(archive)
            if member.filename[-1:] not in ("/", "\\") and (not inside or f"{name}/".startswith(f"{inside}/"))
        ]
    except Exception as error:
        submission.notes.append(_describe(error, file.name))
        return []


def match_platform(name: str) -> tuple[str, str] | None:
    """From a platform's name for a file: the part that says whose it is, and the student's own name for it."""
    matches = (re.fullmatch(pattern, name) for pattern in PLATFORMS)
    return next(((match[1].replace("_LATE_", "_"), match[2] or name) for match in matches if match), None)


def is_graded(path: str) -> bool:
    """Whether a file may be, or contain, graded work."""
    name = path.rpartition("/")[2]
    return bool(ARCHIVE.search(name)) or any(is_copy(name, wanted) for wanted in LARGEST)


def _open_zip(file: File) -> zipfile.ZipFile:
    stream = file.open()
    if isinstance(stream, zipfile.ZipExtFile):  # Seeking backwards in it would unpack it again from its start.
        stream = io.BytesIO(file.read(MAX_INNER))
    return zipfile.ZipFile(stream)


def list_zip(path: Path) -> list[str]:
    """The names in a zip on disk; raises whatever the library raises for a broken one."""
    return [name for name, _ in _list_members(_open_zip(File(path.name, partial(_open_file, path))))]


def _list_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The entries of an archive and their names, folders too; without links and what is ignored. Slashes are single."""
    for member in archive.infolist():
        path, kind = member.filename.replace("\\", "/"), stat.S_IFMT(member.external_attr >> 16)
        name = "/".join(part for part in path.split("/") if part not in ("", "."))
        if kind in (0, stat.S_IFREG, stat.S_IFDIR) and not IGNORED.search(name + "/" * path.endswith("/")):
            yield name, member


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"{member.filename[-80:]!r} is encrypted, or compressed in an unusual way: make an ordinary zip.")
    return archive.open(member)
