"""Find submissions: folders, zips, single files, and downloads from Moodle, Canvas, D2L, Blackboard and Sakai."""

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from helpers.answers import is_copy
from instructor.reader import ARCHIVE, IGNORED, LARGEST, OWN_NAME, is_graded, list_zip, match_platform
from instructor.sheet import read_records

COURSE = {*LARGEST, "helpers", "notebooks"}
MAX_DEPTH = 8  # levels of folders searched in a download
MAX_MEMBERS = 20_000  # of a zip that may be a download
# Canvas's and Blackboard's marks of an attempt: a later one has the first one's row, and counts.
ATTEMPT = re.compile(r"_LATE(?=_)|_attempt_[\d-]+$")
Look = Callable[[Path], set[str]]  # lists the names in a folder, on disk or in a zip; none for a file


@dataclass
class Place:
    """Where one submission is: its parts in the file system, or in a platform's download (`inside` it)."""

    student: str  # a unique name that is safe in files and tables
    key: str  # the place itself; points that a person has entered belong to it
    parts: list[tuple[str, Path, str]] = field(default_factory=list)  # the student's name for it, path, inside

    @property
    def id(self) -> str:
        """An id that begins with a letter, so that no spreadsheet takes it for a number."""
        return f"s{hashlib.sha256(os.fsencode(self.key)).hexdigest()[:11]}"


def find_submissions(paths: list[Path], out: Path, single: bool = False) -> list[Place]:
    """All submissions in the paths, sorted by name; whatever could be somebody's work counts as a submission.

    A path is a submission, or a folder or download with many. `single` treats each path as one submission. `out` is not
    searched for submissions, but the students' names used there are kept.
    """
    before = {record["submission"]: record["student"] for record in read_records(out)}
    found: dict[str, Place] = {}
    attempts: dict[str, tuple[bool, str]] = {}  # of each place, the latest
    parts = []  # pairs: a file or folder on disk, and the part, which is the same or inside it
    for given in map(Path, map(os.path.abspath, paths)):
        listed = [given]
        if given.is_dir() and not single:
            many = len(paths) == 1 and Place("", _find_key(given, out)).id not in before
            listed = list(_list_class(given, partial(_list_names, given, out), many))
        parts += [(path, path) for path in listed]
        if len(listed) == 1 and listed[0].is_file() and not single:
            parts[-1:] = [(listed[0], part) for part in _split_download(listed[0], len(paths) == 1)]
    top = Path(os.path.commonpath([part.parent for _, part in parts])) if parts else Path()
    for path, part in parts:
        who, own_name = match_platform(part.name) or (part.name, part.name)
        # If a class has several folders, the same name may be in each of them.
        student = "_".join([*part.parent.relative_to(top).parts, who])
        place = found.setdefault(key := _find_key(part, out), Place(student, key))
        attempt = ("_LATE_" in who, who) if match_platform(part.name) else (False, "")
        if attempt > attempts.setdefault(key, attempt):
            attempts[key] = attempt
            place.parts.clear()
        elif attempt < attempts[key]:
            continue
        place.parts.append((own_name, path, "/".join(part.parts[len(path.parts) :])))
    return _name_students(list(found.values()), before)


def _find_key(part: Path, out: Path) -> str:
    # The row of bob.rar says that it must be unpacked; the unpacked folder gets the same row.
    own = part.name if part.suffix.lower() == ".zip" else ARCHIVE.sub("", part.name)
    platform = match_platform(part.name)
    return os.path.join(os.path.relpath(part.parent, out), ATTEMPT.sub("", platform[0]) if platform else own)


def _list_class(folder: Path, look: Look, given: bool = False, deeper: int = 1, alone: bool = False) -> Iterator[Path]:
    """The submissions in a folder and in its folders of many; the folder (or file) itself if it is one submission.

    The only folder `given`, unless graded as one before, counts as many if no files of the course are directly in it.
    """
    top = folder if given else _enter(folder, look)
    inside = {name: _look_into(top / name, look) for name in look(top)}
    # Next to others, ann/week 3 may have code.zip and books.zip, or two versions.
    most = 0 if any(map(match_platform, inside)) else 1 if alone or top == folder else 2
    many = _holds_many(inside, given, most, alone) or given and not COURSE & inside.keys()
    if match_platform(folder.name) or not many:
        yield folder
        return
    for part in (top / name for name in sorted(inside)):
        parts = _list_class(part, look, deeper=deeper - (not given), alone=len(inside) == 1)
        yield from parts if deeper else [part]


def _look_into(part: Path, look: Look, deeper: int = MAX_DEPTH) -> set[str]:
    """Which files of the course a part contains, according to the names nearest to its top."""
    names = [part.name] if ARCHIVE.search(part.name) or match_platform(part.name) else look(part)
    kinds = {_name_kind(name) for name in names} & COURSE
    below = [part / name for name in names if deeper and not kinds and not IGNORED.search(f"{name}/")]
    return kinds.union(*(_look_into(each, look, deeper - 1) for each in below))


def _enter(folder: Path, look: Look) -> Path:
    """Skip folders that contain nothing but another folder."""
    names = look(folder)
    while len(names) == 1 and look(only := folder / next(iter(names))) and not match_platform(only.name):
        folder, names = only, look(only)
    return folder


def _name_kind(name: str) -> str:
    if name == "helpers" or ARCHIVE.search(name) or match_platform(name):
        return "exercises.py"  # It may be somebody's whole work.
    return next((wanted for wanted in LARGEST if is_copy(name, wanted)), name)


def _list_names(given: Path, out: Path, folder: Path) -> set[str]:
    try:
        if folder.is_symlink() and folder != given:
            return set()
        names = {name for name in os.listdir(folder) if not IGNORED.search(name)}
        called = (os.path.basename(path(out)) for path in (os.path.abspath, os.path.realpath))
        return names - {name for name in called if os.path.realpath(folder / name) == os.path.realpath(out)}
    except OSError:  # It is a file, or cannot be read.
        return set()


def _holds_many(inside: dict[str, set[str]], given: bool = False, most: int = 1, alone: bool = False) -> bool:
    """Whether names, with their contents, are several submissions: more have the same files than one could (`most`).

    Files of the course among them mean that it is one, but in the `given` folder they may be the instructor's; in a
    class's only folder (`alone`), files with names of their own beside zips may be another student's.
    """
    beside = COURSE & {*inside, *(_name_kind(name) for name in inside if not inside[name])}
    telling = {"exercises.py"} if beside else COURSE - {"results.json"}
    # A zip next to the folder that was unpacked from it is not a second one.
    once = (name for name in inside if (stem := ARCHIVE.sub("", name)) == name or stem not in inside)
    held = Counter(kind for name in once for kind in inside[name] & telling)
    many = max(held.values(), default=0) > most and (given or alone or not all(map(OWN_NAME.fullmatch, inside)))
    others = given or alone and not COURSE & inside.keys() and len([*filter(ARCHIVE.search, inside)]) > 1
    return many and beside <= (LARGEST.keys() if others else set())


def _split_download(path: Path, alone: bool) -> list[Path]:
    """The submissions in a zip of many; the file itself if it is not such a zip.

    Only a zip that is graded alone can count as one by its content: otherwise students could hand in rows for others.
    """
    tree = defaultdict(set)
    try:
        if len(names := list_zip(path)) > MAX_MEMBERS:  # There are no resource limits here.
            return [path]
        for name in names:
            below = Path(path, *f"/{name}/".partition("/../")[0].split("/")[: 2 * MAX_DEPTH])
            while below != path:
                tree[below.parent].add(below.name)
                below = below.parent
    except Exception:  # Its reader will say why.
        return [path]
    top = _enter(path, look := lambda folder: tree.get(folder, set()))
    inside = {name: _look_into(top / name, look) for name in sorted(tree[top])}
    ours = [name for name in inside if inside[name] or is_graded(name)]
    parts = [part for name in inside for part in _list_class(top / name, look, alone=len(inside) == 1)]
    many = _holds_many(inside, alone=True) or len(parts) > len(inside) or any(map(match_platform, ours))
    several = alone and many and not COURSE & inside.keys()
    return parts if several or ours and all(map(match_platform, ours)) else [path]


def _name_students(places: list[Place], before: dict[str, str]) -> list[Place]:
    """Give every student a unique name; a name that is already safe is never given to another student.

    Students who were graded `before` keep their name.
    """
    taken = {"answers_to_read", "answers_files", "grades", "records"}  # other names in the sheets' folder
    taken |= {before[each].casefold() for each in before.keys() - {place.id for place in places}}
    stems = {place.key: before.get(place.id) or ARCHIVE.sub("", place.student) for place in places}

    def rank(place: Place) -> tuple[bool, bool, str]:
        return place.id not in before, clean_name(stems[place.key]) != stems[place.key], place.key

    for place in sorted(places, key=rank):
        name = clean_name(stems[place.key])
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        place.student = next(each for each in names if each.casefold() not in taken)
        taken.add(place.student.casefold())
    return sorted(places, key=lambda place: place.student.casefold())


def clean_name(name: str) -> str:
    """A name that is safe for files, tables and Markdown, and short in bytes."""
    safe = (  # letters, combining marks (vowels in Hindi or Thai) and numbers
        sign if sign in "_.@-" or unicodedata.category(sign)[0] in "LMN" else " "
        for sign in unicodedata.normalize("NFKC", name)
    )
    name = "_".join("".join(safe).split()).strip("._-")
    return name.encode()[:90].decode(errors="ignore") or "submission"
