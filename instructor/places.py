"""Find submissions: every zip, folder or file of a class is one student's; Moodle's and Canvas's names say whose.

Nothing is guessed from what lies deeper. If an entry has several students' work, the reader refuses it and says so.
"""

import hashlib
import os
import unicodedata
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from helpers.answers import is_copy
from instructor.reader import ARCHIVE, IGNORED, LARGEST, Part, is_graded, list_zip, match_platform
from instructor.sheet import read_records

MAX_DEPTH = 8  # levels of folders in a download where a platform's names are looked for


@dataclass
class Place:
    """Where one submission is: its parts in the file system, or in a platform's download."""

    student: str  # a unique name that is safe in files and tables
    key: str  # the place itself; points that a person has entered belong to it
    parts: list[Part] = field(default_factory=list)

    @property
    def id(self) -> str:
        """An id that begins with a letter, so that no spreadsheet takes it for a number."""
        return f"s{hashlib.sha256(os.fsencode(self.key)).hexdigest()[:11]}"


def find_submissions(paths: list[Path], out: Path, single: bool = False) -> list[Place]:
    """All submissions in the paths, sorted by name; whatever could be somebody's work counts as a submission.

    A single path may be a class: a folder with an entry for each student, or a download of Moodle or Canvas. Of several
    paths, each is one submission, as is a `single` one. `out` is not searched for submissions, but the students' names
    used there are kept.
    """
    before = {record["submission"]: record["student"] for record in read_records(out)}
    found: dict[str, Place] = {}
    for given in map(Path, map(os.path.abspath, paths)):
        one = single or len(paths) > 1 or _is_known(given.name) or _describe_part((given, ""), out).id in before
        for part in [(given, "")] if one else _list_class(given, out):
            place = _describe_part(part, out)
            found.setdefault(place.key, place).parts.append(part)
    for place in found.values():  # Canvas marks a later attempt, which counts.
        late = [(path, inside) for path, inside in place.parts if "_LATE_" in (inside or path.name)]
        place.parts = late or place.parts
    return _name_students(list(found.values()), before)


def _describe_part(part: Part, out: Path) -> Place:
    path = Path(*part)
    # The row of bob.rar says that it must be unpacked; the unpacked folder gets the same row.
    own = path.name if path.suffix.lower() == ".zip" else ARCHIVE.sub("", path.name)
    student, _ = match_platform(path.name) or (own, "")
    return Place(ARCHIVE.sub("", student), os.path.join(os.path.relpath(path.parent, out), student))


def _list_class(given: Path, out: Path) -> list[Part]:
    """The students' parts in a folder or download of many; the folder itself if it has files of the course."""
    folder, names = given, _list_names(given, out)
    while len(names) == 1 and (inner := folder / names[0]).is_dir() and not (inner.is_symlink() or _is_known(names[0])):
        folder, names = inner, _list_names(inner, out)
    platform, ours = any(map(match_platform, names)), [name for name in names if _is_known(name)]
    if ours and not platform and len([*filter(ARCHIVE.search, names)]) <= len(ours):
        return [(folder, "")]
    if len(names) <= 1 and not (only := folder.joinpath(*names)).is_dir():
        return [(only, inside) for inside in _split_download(only) or [""]]
    return [(folder / name, "") for name in names]


def _is_known(name: str) -> bool:
    """Whether a file or folder has a platform's name, or (a copy of) one of the course's own."""
    own = name in ("helpers", "notebooks") or any(is_copy(name, wanted) for wanted in LARGEST)
    return own or match_platform(name) is not None


def _list_names(folder: Path, out: Path) -> list[str]:
    try:
        names = [name for name in os.listdir(folder) if not IGNORED.search(name)]
        return sorted(name for name in names if os.path.realpath(folder / name) != os.path.realpath(out))
    except OSError:  # It is a file, or cannot be read.
        return []


def _split_download(archive: Path) -> list[str]:
    """The students' files and folders in a download of Moodle or Canvas; none if it is something else."""
    found = {}
    try:
        for name in list_zip(archive):
            parts = name.split("/")[:MAX_DEPTH]
            named = next((at for at, part in enumerate(parts, 1) if match_platform(part)), 0)
            if named or is_graded(name):
                found["/".join(parts[:named]) or name] = named
    except Exception:  # Its reader will say why.
        return []
    return sorted(found) if any(found.values()) else []


def _name_students(places: list[Place], before: dict[str, str]) -> list[Place]:
    """Give every student a unique name; a name that is already safe is never given to another student.

    Students who were graded `before` keep their name.
    """
    taken = {"answers_to_read", "answers_files", "grades", "records"}  # other names in the sheets' folder
    taken |= {before[each].casefold() for each in before.keys() - {place.id for place in places}}
    stems = {place.key: before.get(place.id) or place.student for place in places}

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
