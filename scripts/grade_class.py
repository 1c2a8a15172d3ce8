"""Grade a class of 40 generated submissions in build/class, and compare each grade with the one it deserves.

python scripts/grade_class.py --workers 2 --no-notebooks     # all options are passed on to `grade`
"""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.answers import NOTEBOOKS  # noqa: E402
from helpers.submit import make_zip  # noqa: E402

hostile = importlib.import_module("hostile")  # of the tests
HOSTILE = (
    *("takes all it can", "works beside the checks", "reaches outside", "patches the checks"),
    "memorised the public check",
)
MIXES = [*((problem,) for problem in hostile.MISTAKES), *(("1d", "2a"), ("2b", "2c"), ("2a", "2b"), hostile.MISTAKES)]


def main() -> int:
    _, for_grade = argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_known_args()
    folder = ROOT / "build" / "class"
    shutil.rmtree(folder, ignore_errors=True)
    deserved = write_class(folder / "submissions")
    command = [sys.executable, "-m", "instructor", "grade", folder / "submissions", "--out", folder / "grades"]
    started, most = time.monotonic(), 0
    with subprocess.Popen([*command, *for_grade], cwd=ROOT) as process:
        while process.poll() is None:
            most = max(most, measure(process.pid))
            time.sleep(0.5)
    if process.returncode:
        return process.returncode
    minutes = (time.monotonic() - started) / 60
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "grades" / "records").iterdir()]
    found = {record["student"]: record["points"] for record in records}
    wrong = [name for name in deserved | found if deserved.get(name) != found.get(name)]
    for name in wrong:
        print(f"WRONG {name}: deserves {deserved.get(name)}, got {found.get(name)}")
    cpu = sum(record["cpu_seconds"] for record in records) / len(records)
    largest = max(record["peak_memory"] for record in records)
    print(
        f"{len(deserved)} submissions, {len(wrong)} with wrong points; {minutes:.1f} min, {cpu:.1f} s of CPU a student"
        f" in sandboxes; peak memory of all processes together {most / 2**20:.0f} MiB, of the largest sandbox"
        f" {largest / 2**20:.0f} MiB"
    )
    return int(bool(wrong))


def measure(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold, with shared memory counted once."""
    held = 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            held += process.memory_full_info().pss
    except psutil.Error:  # One has just ended.
        pass
    return held


def write_class(folder: Path) -> dict[str, dict[str, int]]:
    """Write the submissions; returns the points that each deserves, by student."""
    notebooks = {f"notebooks/{name}": (ROOT / "notebooks" / name).read_bytes() for name in NOTEBOOKS}
    notebooks["results.json"] = (ROOT / "results" / "quick.json").read_bytes()
    codes = {f"right{number:02}": (hostile.SOLUTION, hostile.ALL) for number in range(20)}
    for number, problems in enumerate(MIXES):
        codes[f"wrong{number:02}"] = hostile.mistaken(*problems), hostile.without(*problems)
    codes["stubs"] = hostile.STUBS, hostile.NONE
    for name, (code, _) in codes.items():
        hostile.write_files(folder / name, {"exercises.py": code.encode(), **notebooks})
    deserved = {name: points for name, (_, points) in codes.items()}
    for name in ("empty/notes.txt", "another-format.rar", "lone.py"):
        hostile.write_files(folder, {name: b"?"})
        deserved[Path(name).parts[0].removesuffix(".rar")] = hostile.NONE
    for kind in HOSTILE:
        code, points, _ = hostile.CODE[kind]
        for word, value in (("ROOT", str(ROOT)), ("MARKED", "/tmp"), ("PORT", "9")):
            code = code.replace(word, value)
        name = f"hostile-{kind.replace(' ', '-')}"
        hostile.write_files(folder / name, {"exercises.py": code.encode()})
        deserved[name] = points
    more = {"exercises.py": hostile.SOLUTION.encode(), "../../evil.py": b"x", "zeros": bytes(50 * 2**20)}
    perfect = notebooks["results.json"].replace(b'"accuracy": 0.', b'"accuracy": 1.')
    forged = {
        "hostile-forged-results/exercises.py": hostile.STUBS.encode(),
        "hostile-forged-results/results.json": perfect,
        "hostile-what-is-not-unpacked.zip": make_zip(more),
        "hostile-a-bomb.zip": make_zip({"exercises.py": bytes(50 * 2**20)}),
    }
    hostile.write_files(folder, forged)
    deserved |= {Path(name).parts[0].removesuffix(".zip"): hostile.NONE for name in forged}
    return deserved | {"hostile-what-is-not-unpacked": hostile.ALL}


if __name__ == "__main__":
    sys.exit(main())
