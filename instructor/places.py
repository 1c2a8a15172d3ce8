"""Find submissions: folders, zips, lone files, and what Moodle, Canvas, D2L and Blackboard download."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path

from instructor.reader import ARCHIVE, IGNORED, LARGEST, File, name_members, open_file, open_zip

# What is one student's in a platform's names, then the student's own name for the file.
PLATFORMS = (
    r"(.+_\d+)_assignsubmission_[a-z]+_?(.*)",
    r"([^_]+(?:_LATE)?_\d+)_\d+_(.+)",
    r"(\d+-\d+ - .+? - [^-]+\d{4}[^-]*?)(?: - (.+))?",
    r"(.+_attempt_\d{4}(?:-\d\d){5})(?:_(.+)|\.txt)?",
)
CODE = {"exercises.py", "helpers"}
COURSE = {*LARGEST, *CODE, "notebooks"}


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
    for given in map(Path, map(os.path.abspath, paths)):
        parts = [(given, "")]
        if given.is_dir() and not single:
            parts = [(part, "") for part in _list_class(given, out)]
        elif given.is_file() and not single:
            parts = [(given, inside) for inside in _split_download(given, len(paths) == 1) or [""]]
        for path, inside in parts:
            folder, name = os.path.split(path / inside)
            who, own_name = _match_platform(name) or (name, name)
            key = os.path.join(os.path.relpath(folder, out), who)
            found.setdefault(key, Place(who, key)).parts.append((own_name, path, inside))
    return _name_students(list(found.values()))


def _list_class(folder: Path, out: Path, deeper: int = 2) -> Iterator[Path]:
    """The submissions in a folder, and in folders of many in it; the folder (or file) itself where it is one."""
    inside = {name: _list_names(folder / name) for name in _list_names(folder)}
    many = _holds_many(inside) or deeper == 2 and not COURSE & inside.keys()
    if _match_platform(folder.name) or not many:
        yield folder
        return
    for part in (folder / name for name in sorted(inside)):
        if os.path.realpath(part) == os.path.realpath(out):
            continue
        if deeper and not part.is_symlink():
            yield from _list_class(part, out, deeper - 1)
        else:
            yield part


def _list_names(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if not IGNORED.search(name)}
    except OSError:  # It is a file, or nobody may look into it.
        return set()


def _holds_many(inside: dict[str, set[str]]) -> bool:
    """Whether names, each with the names in it, are several submissions and not parts of one.

    A lone exercises.py among them may be the instructor's.
    """
    several = [name for name in inside if ARCHIVE.search(name) or _match_platform(name) or CODE & inside[name]]
    return len(several) > 1 and COURSE & inside.keys() <= {"exercises.py"}


def _split_download(path: Path, alone: bool) -> list[str]:
    """The tops of a zip of many submissions; none of any other file.

    Only a zip that is graded alone is taken for such by its content: else a student could hand in rows for others.
    """

    def split(names: list[str]) -> list[str]:
        below: dict[str, list[str]] = {}
        for name in names:
            top, _, rest = name.partition("/")
            below.setdefault(top, []).append(rest)
        inside = {top: {rest.partition("/")[0] for rest in below[top]} for top in below}
        if all(map(_match_platform, below)) or alone and _holds_many(inside):
            return list(below)
        if len(below) > 1 or "" in below[top]:
            return []
        return [f"{top}/{each}" for each in split(below[top])]  # One folder around everything says nothing.

    try:
        return split([name for name, _ in name_members(open_zip(File(path.name, partial(open_file, path))))])
    except Exception:  # Its reader will say why.
        return []


def _match_platform(name: str) -> tuple[str, str] | None:
    """Of a platform's name for something, what says whose it is, and the student's own name for it."""
    matches = (re.fullmatch(pattern, name) for pattern in PLATFORMS)
    return next(((match[1], match[2] or name) for match in matches if match), None)


def _name_students(places: list[Place]) -> list[Place]:
    """Give everybody a name of their own; a name that is safe as it stands is never another's."""
    taken = {"answers_to_read", "answers_files", "grades", "records"}  # what else lies beside the sheets
    stems = {place.key: ARCHIVE.sub("", place.student) for place in places}
    for place in sorted(places, key=lambda place: (clean_name(stems[place.key]) != stems[place.key], place.key)):
        name = clean_name(stems[place.key])
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        place.student = next(each for each in names if each.casefold() not in taken)
        taken.add(place.student.casefold())
    return sorted(places, key=lambda place: place.student.casefold())


def clean_name(name: str) -> str:
    """A name that is safe as a file's, in a table and in Markdown, and short in bytes."""
    name = re.sub(r"[^\w.@-]+", "_", unicodedata.normalize("NFKC", name)).strip("._-")
    return name.encode()[:90].decode(errors="ignore") or "submission"
