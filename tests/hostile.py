"""Submissions that nobody should trust, with the points they deserve; `build` writes one as a folder or a zip."""

import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostile_code import ALL, MISTAKES, NONE, ROOT, SLEEP, SOLUTION, STUBS  # noqa: F401  (for the tests)
from hostile_forgery import CODE, REPRESENTATIVES, WAITS  # noqa: F401


@dataclass
class Hostile:
    """A submission: its points, part of what its sheet says, and how to write it to a path (`.zip` where it is one).

    `seconds` is the limit for each of its problems.
    """

    points: dict[str, int]
    says: str
    write: Callable[[Path], None]
    ending: str = ""
    seconds: float = 60.0


def write_folder(files: dict[str, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)

    return write


def write_zip(members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data, zipfile.ZIP_DEFLATED)

    return write


def special_member(name: str, kind: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    return member


def write_encrypted(path: Path) -> None:
    write_zip([("exercises.py", SOLUTION.encode())])(path)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


def write_broken(path: Path) -> None:
    write_zip([("exercises.py", SOLUTION.encode())])(path)
    data = bytearray(path.read_bytes())
    data[60:200] = random.Random(3).randbytes(140)
    path.write_bytes(data)


def write_link(path: Path) -> None:
    path.mkdir()
    (path / "exercises.py").symlink_to(ROOT / "helpers" / "exercises.py")


def write_linked_folder(path: Path) -> None:
    path.mkdir()
    (path / "helpers").symlink_to(ROOT / "helpers")


def write_fifo(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "exercises.py")


RIGHT = SOLUTION.encode()
ZIPS = {
    "zip slip": ([("exercises.py", RIGHT), ("../../evil.py", b"x")], "leads out of its folder"),
    "absolute path": ([("/etc/evil", b"x"), ("exercises.py", RIGHT)], "leads out of its folder"),
    "Windows path": ([("C:\\evil", b"x"), ("exercises.py", RIGHT)], "leads out of its folder"),
    "duplicate names": ([("exercises.py", RIGHT), ("EXERCISES.py", RIGHT)], "two members called"),
    "a link in a zip": ([(special_member("exercises.py", stat.S_IFLNK), b"/etc/passwd")], "is a link or a device"),
    "a device in a zip": ([(special_member("exercises.py", stat.S_IFCHR), b"")], "is a link or a device"),
    "a bomb": ([("exercises.py", RIGHT), ("zeros", bytes(200 * 2**20))], "a bomb"),
    "too many members": ([("exercises.py", RIGHT), *((f"{n}", b"") for n in range(21_000))], "more than 20,000"),
    "nothing of use": ([("readme.txt", b"please")], "neither exercises.py nor"),
}


RESULTS = (ROOT / "results" / "quick.json").read_bytes()
PERFECT = RESULTS.replace(b'"accuracy": 0.', b'"accuracy": 1.')


def all_hostile(port: int = 9, marked: str = "/tmp") -> dict[str, Hostile]:
    """Every hostile submission by name; `port` is one that calls home, `marked` a folder that must stay clean."""
    found = {}
    for name, (code, points, says) in CODE.items():
        code = code.replace("ROOT", str(ROOT)).replace("MARKED", marked).replace("PORT", str(port))
        seconds = 8.0 if name in WAITS else 60.0
        found[name] = Hostile(points, says, write_folder({"exercises.py": code.encode()}), "", seconds)
    for name, (members, says) in ZIPS.items():
        found[name] = Hostile(NONE, says, write_zip(members), ".zip")
    found["a zip that is encrypted"] = Hostile(NONE, "encrypted", write_encrypted, ".zip")
    found["a zip that is broken"] = Hostile(NONE, "cannot be read", write_broken, ".zip")
    found["a zip that is none"] = Hostile(NONE, "not a zip", lambda path: _write(path, b"PK but no"), ".zip")
    found["a link"] = Hostile(NONE, "is a link", write_link)
    found["a linked folder"] = Hostile(NONE, "is a link", write_linked_folder)
    found["a pipe"] = Hostile(NONE, "is not an ordinary file", write_fifo)
    found["no exercises"] = Hostile(NONE, "there is no exercises.py", write_folder({"results.json": RESULTS}))
    found["exercises that are no text"] = Hostile(
        NONE, "cannot be imported", write_folder({"exercises.py": b"\xff\xfe\0"})
    )
    forged = {"exercises.py": STUBS.encode(), "results.json": PERFECT}
    found["forged results"] = Hostile(NONE, "other code than was handed in", write_folder(forged))
    nested = {"exercises.py": STUBS.encode(), "results.json": b"[" * 10**6}
    found["results that are none"] = Hostile(NONE, "not a results file", write_folder(nested))
    return found


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def build(hostile: Hostile, folder: Path, name: str) -> Path:
    """Write a submission; returns its path."""
    path = folder / f"{name}{hostile.ending}"
    if path.is_dir():
        shutil.rmtree(path)
    hostile.write(path)
    return path
