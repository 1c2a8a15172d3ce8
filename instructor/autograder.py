"""Gradescope: the autograder's zip, and the results in its published schema."""

import json
import zipfile
from pathlib import Path
from typing import Any

from helpers.settings import CourseError, project_folder, write_atomically
from instructor.grade import read_course, strip_answers, write_notebook
from instructor.sheet import AUTOMATIC, WRITTEN

TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # The same course gives the same bytes.
COURSE = ("pyproject.toml", "constraints.txt", "LICENSE", "helpers/**/*", "instructor/*.py")
LEFT_OUT = {"helpers/exercises.py"}  # The solution is not needed, so it is not there to be found.
SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the autograder's image (Ubuntu 22.04 or newer).
# TORCH_INDEX: the address of PyTorch's index of CPU builds, from the install page on pytorch.org. Left empty, pip takes
# the default build, which is several gigabytes larger on Linux and grades just as well.
set -euo pipefail
ROOT="${AUTOGRADER_ROOT:-/autograder}"
TORCH_INDEX="${TORCH_INDEX:-}"
SOURCE="$ROOT/source"
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv python3-pip bubblewrap util-linux
python3 -m venv "$ROOT/venv"
PIP="$ROOT/venv/bin/python -m pip install --no-cache-dir -c $SOURCE/constraints.txt"
$PIP ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
# This installs what the course needs; the course itself runs from $SOURCE.
$PIP "$SOURCE" pytest nbval psutil
"$ROOT/venv/bin/python" -m pip uninstall -y bitfit-assignment
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this once for each submission; it must leave results/results.json behind.
set -u
ROOT="${AUTOGRADER_ROOT:-/autograder}"
PYTHON="${AUTOGRADER_PYTHON:-$ROOT/venv/bin/python}"
RESULTS="$ROOT/results/results.json"
mkdir -p "$ROOT/results" "$ROOT/graded"
# The submission's code runs as another user: what it must not see is closed to everybody else.
chmod 700 "$ROOT/source" "$ROOT/submission" "$ROOT/results" "$ROOT/graded"
rm -f "$RESULTS"
cd "$ROOT/source"
PYTHONPATH="$ROOT/source" HF_HUB_OFFLINE=1 "$PYTHON" -m instructor grade "$ROOT/submission" --out "$ROOT/graded" \\
    --gradescope "$RESULTS" ${GRADE_OPTIONS:-} 2>&1
if [ ! -f "$RESULTS" ]; then
    printf '{"score": 0, "output": "The autograder itself failed; tell your instructor.", "tests": []}\\n' > "$RESULTS"
fi
"""


def write_autograder(path: Path) -> str:
    """Write the autograder's zip: setup.sh, run_autograder and the course without its solutions; returns a summary."""
    project = project_folder()
    files = {"setup.sh": SETUP.encode(), "run_autograder": RUN.encode()}
    for pattern in COURSE:
        for found in sorted(project.glob(pattern)):
            name = found.relative_to(project).as_posix()
            if found.is_file() and "__pycache__" not in name and found.suffix != ".part" and name not in LEFT_OUT:
                files[name] = found.read_bytes()
    notebooks = read_course()
    files |= {f"notebooks/{name}": write_notebook(strip_answers(part)).encode() for name, part in notebooks.items()}
    absent = {"pyproject.toml", "constraints.txt", "instructor/__main__.py"} - files.keys()
    if absent:
        raise CourseError(f"There is no {', '.join(sorted(absent))} here. Run this in the assignment's folder.")
    beside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(files.items()):
                member = zipfile.ZipInfo(name, TIMESTAMP)
                member.external_attr = (0o100755 if name in ("setup.sh", "run_autograder") else 0o100644) << 16
                member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
                archive.writestr(member, data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CourseError(f"Could not write {path}: {error.strerror}.") from error
    size = path.stat().st_size / 2**20
    return (
        f"Wrote {path} ({len(files)} files, {size:.1f} MiB): upload it under Configure Autograder. Before that, set"
        " TORCH_INDEX in its setup.sh, which makes the image several gigabytes smaller."
    )


def write_results(record: dict[str, Any], path: Path) -> None:
    write_atomically(path, json.dumps(make_results(record), indent=1) + "\n")


def make_results(record: dict[str, Any]) -> dict[str, Any]:
    """A record of `grade` in Gradescope's schema; the written problems are left to its rubric."""
    tests = [
        {
            "number": problem,
            "name": f"Problem {problem}",
            "score": record["points"][problem],
            "max_score": most,
            "status": "passed" if record["points"][problem] == most else "failed",
            "output": record["said"][problem],
            "output_format": "text",
            "visibility": "visible",
        }
        for problem, most in AUTOMATIC.items()
    ]
    for name, lines, visibility in (
        ("Notebooks, re-executed", record["notebooks"], "visible"),
        ("Notes", record["notes"], "visible"),
        ("Results handed in", record["results"], "visible"),
        ("How it was graded", [*record["isolation"], record["limits"]], "hidden"),
    ):
        if lines:
            details = {"output": "\n".join(lines), "output_format": "text", "visibility": visibility}
            tests.append({"name": name, **details})
    written = ", ".join(
        f"{problem} ({'answered' if problem in record['answers'] else 'no answer'})" for problem in WRITTEN
    )
    return {
        "score": record["automatic"],
        "execution_time": round(record["seconds"]),
        "output": f"Automatic points: {record['automatic']} of {sum(AUTOMATIC.values())}. Read by a person: {written}.",
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
