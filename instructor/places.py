"""Find submissions: folders, zips, lone files, and what Moodle, Canvas, D2L and Blackboard download."""

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from instructor.reader import ARCHIVE, LARGEST, SYSTEM, Entry, Submission, list_archive, open_file

# What is one student's in a platform's names, then the student's own name for the file.
PLATFORMS = (
    r"(.+_\d+)_assignsubmission_[a-z]+_?(.*)",
    r"([^_]+(?:_LATE)?_\d+)_\d+_(.+)",
    r"(\d+-\d+ - .+? - [^-]+\d{4}[^-]*?)(?: - (.+))?",
    r"(.+_attempt_\d{4}(?:-\d\d){5})(?:_(.+)|\.txt)?",
)


@dataclass
class Place:
    """Where one submission lies: parts in the file system, or in a platform's download (`inside` it)."""

    student: str  # a name that is safe in files and tables, and nobody else's
    key: str  # the place itself, to which points that a person has entered belong
    parts: list[tuple[str, Path, str]] = field(default_factory=list)  # the student's name for it, path, inside

    @property
    def id(self) -> str:
        """Begins with a letter, so that no spreadsheet takes it for a number."""
        return f"s{hashlib.sha256(os.fsencode(self.key)).hexdigest()[:11]}"


def find_submissions(paths: list[Path], out: Path, single: bool = False) -> list[Place]:
    """Every submission that the paths hold, in the order of their names; whatever could be somebody's work is one.

    A path is a submission, or a folder or download of many. `single` takes each path for one. `out` is not looked at.
    """
    found: dict[str, Place] = {}

    def add(path: Path, inside: str = "") -> None:
        name = (inside or path.name).rpartition("/")[2]
        who, own_name = _match_platform(name) or (name, name)
        folder = path / os.path.dirname(inside) if inside else path.parent
        key = os.path.join(os.path.relpath(folder, out), who)
        found.setdefault(key, Place(who, key)).parts.append((own_name, path, inside))

    def look_into(folder: Path, deeper: int) -> None:
        for part in sorted(folder.iterdir()):
            if SYSTEM.match(part.name) or os.path.realpath(part) == os.path.realpath(out):
                continue
            if deeper and part.is_dir() and not part.is_symlink() and _holds_many(part):
                look_into(part, deeper - 1)
            else:
                add(part)

    for path in (Path(os.path.abspath(path)) for path in paths):
        if path.is_dir() and not single and not is_one(path):
            look_into(path, deeper=2)
            continue
        tops = [] if single or path.is_dir() else _split_download(path, alone=len(paths) == 1)
        for inside in tops or [""]:
            add(path, inside)
    return _name_students(list(found.values()))


def is_one(folder: Path) -> bool:
    """Whether a folder is one submission and not a folder of many."""
    names = os.listdir(folder)
    mine = [name for name in names if name in LARGEST]
    others = [name for name in names if ARCHIVE.search(name) or (folder / name).is_dir()]
    course = [name for name in ("helpers", "notebooks") if (folder / name).is_dir()]
    return bool(course) or len(mine) > 1 or bool(mine and not others)


def _holds_many(folder: Path) -> bool:
    try:
        parts = [part for part in folder.iterdir() if not SYSTEM.match(part.name)]
    except OSError:
        return False
    several = [part for part in parts if ARCHIVE.search(part.name) or part.is_dir() and is_one(part)]
    return len(several) > 1 and not is_one(folder) and not _match_platform(folder.name)


def _split_download(path: Path, alone: bool) -> list[str]:
    """The tops of a zip of many submissions; none for any other file.

    Only a zip that is graded alone is taken for such by its content: else a student could hand in rows for others.
    """
    names = [entry.path for entry in list_archive(Entry(path.name, partial(open_file, path)), Submission())]
    start = os.path.commonprefix(names)
    start = start[: start.rfind("/") + 1] if len(names) > 1 else ""
    tops = sorted({name[len(start) :].partition("/")[0] for name in names})
    if all(map(_match_platform, tops)):
        return [start + top for top in tops]
    mine = {f"{start}{top}/{name}" for top in tops for name in ("exercises.py", "helpers/exercises.py")}
    many = len(mine & set(names)) + sum(bool(ARCHIVE.search(top) or _match_platform(top)) for top in tops) > 1
    one = {*LARGEST, "helpers", "notebooks"} & set(tops)
    return [start + top for top in tops] if alone and many and not one else []


def _match_platform(name: str) -> tuple[str, str] | None:
    """Of a platform's name for something, what says whose it is, and the student's own name for it."""
    matches = (re.fullmatch(pattern, name) for pattern in PLATFORMS)
    return next(((match[1], match[2] or name) for match in matches if match), None)


def _name_students(places: list[Place]) -> list[Place]:
    """Give everybody a name of their own; a name that is safe as it stands is never another's."""
    taken = {"answers_to_read", "answers_files", "grades", "records"}  # what else lies beside the sheets
    stems = {place.key: ARCHIVE.sub("", place.student) for place in places}
    for place in sorted(places, key=lambda place: (clean_name(stems[place.key]) != stems[place.key], place.key)):
        place.student = first = clean_name(stems[place.key])
        number = 1
        while place.student.casefold() in taken:
            number += 1
            place.student = f"{first}-{number}"
        taken.add(place.student.casefold())
    return sorted(places, key=lambda place: place.student.casefold())


def clean_name(name: str) -> str:
    """A name that is safe as a file's, in a table and in Markdown, and short in bytes."""
    name = re.sub(r"[^\w.@-]+", "_", unicodedata.normalize("NFKC", name)).strip("._-")
    return name.encode()[:90].decode(errors="ignore") or "submission"
