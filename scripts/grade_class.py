"""Grade a class of 40 generated submissions in one command, and compare each grade with the one it deserves.

python scripts/grade_class.py --out build/class [--workers 2] [--notebooks corner] [--all-hostile]
"""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.instructor.unpack import NOTEBOOKS, clean_name  # noqa: E402

table = importlib.import_module("hostile")  # of the tests
IN_CLASS = (
    *("fork bomb", "infinite loop", "10 GB at once", "a gigabyte of output", "writes outside", "a daemon"),
    *("reads the solution by its path", "forges what the probe sends", "patches the checks", "zip slip", "a bomb"),
    *("notebook: deeply nested", "forged results", "calls home"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for submissions and grades; it is emptied")
    parser.add_argument("--workers", default="1", help="submissions at a time (default: %(default)s)")
    parser.add_argument("--notebooks", choices=("none", "corner"), default="none", help="default: %(default)s")
    parser.add_argument("--all-hostile", action="store_true", help="with every hostile submission there is")
    options = parser.parse_args()
    submissions, grades = options.out / "submissions", options.out / "grades"
    for folder in (submissions, grades):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    deserved = write_class(submissions, options.all_hostile)
    command = [sys.executable, "-m", "helpers", "grade", str(submissions.absolute()), "--out", str(grades.absolute())]
    command += ["--workers", options.workers, *["--no-notebooks"] * (options.notebooks == "none")]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        return done.returncode
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (grades / "records").iterdir()}
    wrong = [name for name, points in deserved.items() if records.get(name, {}).get("points") != points]
    for name in wrong:
        print(f"WRONG {name}: deserves {deserved[name]}, got {records.get(name, {}).get('points')}")
    memory = max(record["peak_memory"] for record in records.values()) / 2**20
    cpu = sum(record["cpu_seconds"] for record in records.values())
    right = f"{len(deserved)} submissions, {len(deserved) - len(wrong)} with the points they deserve"
    print(f"{right}; {seconds / 60:.1f} min, {cpu / 60:.1f} min of CPU in sandboxes; largest sandbox {memory:.0f} MiB")
    return int(bool(wrong))


def write_class(folder: Path, every_hostile: bool) -> dict[str, dict[str, int]]:
    """Write the submissions; returns the points that each deserves, by the student's name in the grades."""
    deserved = {}
    notebooks = {name: (ROOT / name).read_bytes() for name in NOTEBOOKS if (ROOT / name).exists()}
    for number in range(12):
        name, files = f"right-{number:02}", {"exercises.py": table.RIGHT, **notebooks}
        files["results.json"] = (ROOT / "results" / "quick.json").read_bytes()
        _write(folder / name, files, zipped=number % 3 > 0, inside="work/" * (number % 3 == 2))
        deserved[name] = table.ALL
    mixes = [(p,) for p in table.MISTAKES] * 2 + [("1d", "2a"), ("2b", "2c"), ("2a", "2b"), tuple(table.MISTAKES)]
    for number, problems in enumerate(mixes):
        name = f"wrong-{number:02}-{'-'.join(problems)}"
        code = table.SOLUTION + "".join(table.MISTAKES[problem] for problem in problems)
        _write(folder / name, {"helpers/exercises.py": code.encode(), **notebooks}, zipped=number % 2 > 0)
        deserved[name] = table.ALL | dict.fromkeys(problems, 0)
    for name, files in (
        ("empty-1", {"exercises.py": table.STUBS.encode(), **notebooks}),
        ("empty-2", {"notes.txt": b"?"}),
    ):
        _write(folder / name, files, zipped=True)
        deserved[name] = table.NONE
    hostile = table.all_hostile()
    for kind in hostile if every_hostile else IN_CLASS:
        name = clean_name(f"hostile {kind}")
        table.build(hostile[kind], folder, name)
        deserved[name] = hostile[kind].points
    return deserved


def _write(path: Path, files: dict[str, bytes], zipped: bool, inside: str = "") -> None:
    if zipped:
        with zipfile.ZipFile(f"{path}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(inside + name, data)
        return
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
