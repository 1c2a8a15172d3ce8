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

from helpers.answers import is_copy
from instructor.reader import (
    ARCHIVE,
    IGNORED,
    LARGEST,
    File,
    is_graded,
    match_platform,
    name_members,
    open_file,
    open_zip,
)
from instructor.sheet import read_records

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

    A path is a submission, or a folder or download of many. `single` takes each path for one. Nothing is looked for in
    `out`, but whose names are taken there is.
    """
    found: dict[str, Place] = {}
    for given in map(Path, map(os.path.abspath, paths)):
        listed = list(_list_class(given, out)) if given.is_dir() and not single else [given]
        parts = [(path, "") for path in listed]
        if len(listed) == 1 and listed[0].is_file() and not single:
            parts = [(listed[0], inside) for inside in _split_download(listed[0], len(paths) == 1) or [""]]
        folders = {(path / inside).parent for path, inside in parts}
        for path, inside in parts:
            folder, name = os.path.split(path / inside)
            who, own_name = match_platform(name) or (name, name)
            key = os.path.join(os.path.relpath(folder, out), who)
            # Where a class has several folders, the same name may be in each of them.
            above = Path(os.path.relpath(folder, given)).parts if len(folders) > 1 else ()
            found.setdefault(key, Place("_".join([*above, who]), key)).parts.append((own_name, path, inside))
    return _name_students(list(found.values()), out)


def _list_class(folder: Path, out: Path, deeper: int = 2) -> Iterator[Path]:
    """The submissions in a folder, and in folders of many in it; the folder (or file) itself where it is one."""
    inside = {name: _look_into(folder / name) for name in _list_names(folder)}
    many = _holds_many(inside, deeper == 2) or deeper == 2 and not COURSE & inside.keys()
    if match_platform(folder.name) or not many:
        yield folder
        return
    for part in (folder / name for name in sorted(inside)):
        if os.path.realpath(part) == os.path.realpath(out):
            continue
        if deeper and not part.is_symlink():
            yield from _list_class(part, out, deeper - 1)
        else:
            yield part


def _look_into(folder: Path) -> set[str]:
    """The names in a folder, copies of exercises.py by its own; one folder around everything says nothing."""
    names = _list_names(folder)
    while len(names) == 1 and (within := folder / next(iter(names))).is_dir() and not within.is_symlink():
        folder, names = within, _list_names(within)
    return {"exercises.py" if is_copy(name, "exercises.py") else name for name in names}


def _list_names(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if not IGNORED.search(name)}
    except OSError:  # It is a file, or nobody may look into it.
        return set()


def _holds_many(inside: dict[str, set[str]], given: bool = False) -> bool:
    """Whether names, each with the names in it, are several submissions and not parts of one.

    A lone exercises.py among them may be the instructor's, as may any file of the course in the folder that is `given`.
    """
    several = {name for name in inside if ARCHIVE.search(name) or match_platform(name) or CODE & inside[name]}
    several |= {name for name in inside if given and any(map(ARCHIVE.search, inside[name]))}
    return len(several) > 1 and COURSE & inside.keys() <= (LARGEST.keys() if given else {"exercises.py"})


def _split_download(path: Path, alone: bool) -> list[str]:
    """The tops of a zip of many submissions; none of any other file.

    Only a zip that is graded alone is taken for such by its content: else a student could hand in rows for others.
    """

    def split(names: list[str]) -> list[str]:
        below, ours = {}, {name.partition("/")[0] for name in names if is_graded(name)}
        for name in names:
            top, _, rest = name.partition("/")
            below.setdefault(top, []).append(rest)
        inside = {top: {rest.partition("/")[0] for rest in below[top]} for top in below}
        if ours and all(map(match_platform, ours)) or alone and _holds_many(inside):
            return list(below)
        if len(below) > 1 or "" in below[top]:
            return []
        return [f"{top}/{each}" for each in split(below[top])]  # One folder around everything says nothing.

    try:
        return split([name for name, _ in name_members(open_zip(File(path.name, partial(open_file, path))))])
    except Exception:  # Its reader will say why.
        return []


def _name_students(places: list[Place], out: Path) -> list[Place]:
    """Give everybody a name of their own; a name that is safe as it stands is never another's.

    Who was graded into `out` before keeps the name of then.
    """
    taken = {"answers_to_read", "answers_files", "grades", "records"}  # what else lies beside the sheets
    before = {record["submission"]: record["student"] for record in read_records(out)}
    taken |= {before[each].casefold() for each in before.keys() - {place.id for place in places}}
    stems = {place.key: before.get(place.id) or ARCHIVE.sub("", place.student) for place in places}

    def rank(place: Place) -> tuple[bool, bool, str]:
        return place.id not in before, clean_name(stems[place.key]) != stems[place.key], place.key

    for place in sorted(places, key=rank):
        name = clean_name(stems[place.key])
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        place.student = next(each for each in names if each.casefold() not in taken)
        taken.add(place.student.casefold())
    return sorted(places, key=lambda place: place.student.casefold())


def clean_name(name: str) -> str:
    """A name that is safe as a file's, in a table and in Markdown, and short in bytes."""
    name = re.sub(r"[^\w.@-]+", "_", unicodedata.normalize("NFKC", name)).strip("._-")
    return name.encode()[:90].decode(errors="ignore") or "submission"
