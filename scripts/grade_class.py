"""Grade a class of 40 generated submissions in one command, and compare each grade with the one it deserves.

python scripts/grade_class.py --out build/class [--workers 2] [--notebooks corner] [--all-hostile]
"""

import argparse
import importlib
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.answers import NOTEBOOKS  # noqa: E402

hostile = importlib.import_module("hostile")  # of the tests
IN_CLASS = (
    *("fork bomb", "infinite loop", "10 GB at once", "a gigabyte of output", "writes outside", "a daemon"),
    *("reads the solution by its path", "patches the checks", "zip slip", "a bomb", "calls home", "forged results"),
)
Files = dict[str, bytes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for submissions and grades; it is emptied")
    parser.add_argument("--workers", default="1", help="submissions at a time (default: %(default)s)")
    parser.add_argument("--notebooks", choices=("none", "corner"), default="none", help="default: %(default)s")
    parser.add_argument("--all-hostile", action="store_true", help="with every hostile submission there is")
    options = parser.parse_args()
    submissions, grades = (options.out.absolute() / name for name in ("submissions", "grades"))
    for folder in (submissions, grades):
        shutil.rmtree(folder, ignore_errors=True)
    submissions.mkdir(parents=True)
    deserved = write_class(submissions, options.all_hostile)
    command = [sys.executable, "-m", "instructor", "grade", str(submissions), "--out", str(grades)]
    command += ["--workers", options.workers, *["--no-notebooks"] * (options.notebooks == "none")]
    started, most = time.monotonic(), 0
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            most = max(most, measure(process.pid))
            time.sleep(0.5)
    if process.returncode:
        return process.returncode
    seconds = time.monotonic() - started
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (grades / "records").iterdir()]
    found = {name: [each for each in records if f"_{name}_" in f"_{each['student']}_"] for name in deserved}
    wrong = {name: of for name, of in found.items() if len(of) != 1 or of[0]["points"] != deserved[name]}
    for name, of in wrong.items():
        print(f"WRONG {name}: deserves {deserved[name]}, got {[record['points'] for record in of]}")
    cpu = sum(record["cpu_seconds"] for record in records) / len(records)
    largest = max(record["peak_memory"] for record in records)
    print(
        f"{len(deserved)} submissions, {len(deserved) - len(wrong)} with the points they deserve;"
        f" {seconds / 60:.1f} min, {cpu:.1f} s of CPU a student in sandboxes; all processes together held at most"
        f" {most / 2**20:.0f} MiB, the largest sandbox {largest / 2**20:.0f} MiB"
    )
    return int(bool(wrong) or len(records) != len(deserved))


def measure(pid: int) -> int:
    """Bytes of memory that a process and all below it hold, what they share counted once."""
    held = 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            held += process.memory_full_info().pss
    except psutil.Error:  # One has just ended.
        pass
    return held


def pack(files: Files, inside: str = "") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(inside + name, data)
    return packed.getvalue()


def flatten(files: Files, change: Callable[[str], str] = str) -> Files:
    return {change(name.rpartition("/")[2]): data for name, data in files.items()}


# From a student's name and files to what then lies in the class's folder.
LAYOUTS: tuple[Callable[[str, Files], Files], ...] = (
    lambda name, files: {f"{name}.zip": pack(files)},
    lambda name, files: {f"{name}/{path}": data for path, data in files.items()},
    lambda name, files: {f"{name}.zip": pack(flatten(files), "week 3/")},
    lambda name, files: {f"{name}_101_assignsubmission_file_/submission.zip": pack(files)},
    lambda name, files: {f"{name}_102_assignsubmission_file_{path}": data for path, data in flatten(files).items()},
    lambda name, files: {f"{name}_LATE_103_7_submission.zip": pack(files)},
    lambda name, files: {f"{name}_104_{n}_{p}": data for n, (p, data) in enumerate(flatten(files).items())},
    lambda name, files: {f"1-105 - {name} - Nov 25, 2026 400 PM/submission.zip": pack(files)},
    lambda name, files: {f"HW_{name}_attempt_2026-11-25-10-00-00_submission.zip": pack(files)},
    lambda name, files: {f"{name}.zip": pack({"hand-in/submission.zip": pack(files)})},
    lambda name, files: {f"{name}.zip": pack(flatten(files, lambda path: path.replace(".", " (1).", 1)))},
    lambda name, files: {f"{name}/{path}": data for path, data in flatten(files, "Copy of {}".format).items()},
)


def write_class(folder: Path, every_hostile: bool) -> dict[str, dict[str, int]]:
    """Write the submissions; returns the points that each deserves, by the student's name."""
    deserved: dict[str, dict[str, int]] = {}
    notebooks = {f"notebooks/{name}": (ROOT / "notebooks" / name).read_bytes() for name in NOTEBOOKS}
    notebooks["results.json"] = (ROOT / "results" / "quick.json").read_bytes()

    def hand_in(name: str, code: str, points: dict[str, int]) -> None:
        layout = LAYOUTS[len(deserved) % len(LAYOUTS)]
        for path, data in layout(name, {"exercises.py": code.encode(), **notebooks}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        deserved[name] = points

    for number in range(12):
        hand_in(f"right{number:02}", hostile.SOLUTION, hostile.ALL)
    mixes = [(p,) for p in hostile.MISTAKES] * 2 + [("1d", "2a"), ("2b", "2c"), ("2a", "2b"), tuple(hostile.MISTAKES)]
    for number, problems in enumerate(mixes):
        code = hostile.SOLUTION + "".join(hostile.MISTAKES[problem] for problem in problems)
        hand_in(f"wrong{number:02}", code, hostile.ALL | dict.fromkeys(problems, 0))
    hand_in("stubs", hostile.STUBS, hostile.NONE)
    for name in ("empty/notes.txt", "another-format.rar", "lone.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"?")
        deserved[Path(name).parts[0].removesuffix(".rar")] = hostile.NONE
    submissions = hostile.all_hostile()
    for kind in submissions if every_hostile else IN_CLASS:
        name = f"hostile-{kind.replace(' ', '-').replace(':', '')}"
        hostile.build(submissions[kind], folder, name)
        deserved[name] = submissions[kind].points
    return deserved


if __name__ == "__main__":
    sys.exit(main())
