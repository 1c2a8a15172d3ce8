"""Gradescope: the autograder's zip, and the results in its published schema."""

from pathlib import Path
from typing import Any

from helpers.settings import project_folder, write_atomically
from helpers.submit import make_zip
from instructor.release import EXERCISES, build_release
from instructor.sheet import AUTOMATIC, WRITTEN, describe, describe_answer

SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the autograder's image (Ubuntu 22.04 or newer).
# TORCH_INDEX: the address of PyTorch's index of CPU builds, from the install page on pytorch.org. If it is empty, pip
# installs the default build, which is several gigabytes larger on Linux and works just as well.
set -euo pipefail
ROOT="${AUTOGRADER_ROOT:-/autograder}"
TORCH_INDEX="${TORCH_INDEX:-}"
SOURCE="$ROOT/source"
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv python3-pip bubblewrap util-linux
python3 -m venv "$ROOT/venv"
PIP="$ROOT/venv/bin/python -m pip install --no-cache-dir -c $SOURCE/constraints.txt"
$PIP ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
# This installs what the course needs; the course itself runs from $SOURCE.
$PIP "$SOURCE" pytest nbval psutil scikit-learn
"$ROOT/venv/bin/python" -m pip uninstall -y bitfit-assignment
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this once for each submission; it must write results/results.json.
set -u
ROOT="${AUTOGRADER_ROOT:-/autograder}"
PYTHON="${AUTOGRADER_PYTHON:-$ROOT/venv/bin/python}"
RESULTS="$ROOT/results/results.json"
mkdir -p "$ROOT/results" "$ROOT/graded"
# The submission's code runs as another user: close what it must not see to other users.
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
    files, _ = build_release(project)
    del files[EXERCISES]  # The submission brings its own.
    files |= {f"instructor/{part.name}": part.read_bytes() for part in project.glob("instructor/*.py")}
    files |= {"setup.sh": SETUP.encode(), "run_autograder": RUN.encode()}
    write_atomically(path, make_zip(files, programs=("setup.sh", "run_autograder")))
    return (
        f"Wrote {path} ({len(files)} files): upload it under Configure Autograder. Before that, set TORCH_INDEX in its"
        " setup.sh: this makes the image several gigabytes smaller."
    )


def make_results(record: dict[str, Any]) -> dict[str, Any]:
    """A record from `grade` in Gradescope's schema; the written problems are left to its rubric."""
    tests = [
        {
            "number": problem,
            "name": f"Problem {problem}",
            "score": record["points"][problem],
            "max_score": most,
            "status": "passed" if record["points"][problem] == most else "failed",
            "output": record["said"][problem],
        }
        for problem, most in AUTOMATIC.items()
    ]
    _, *parts, graded = describe(record).items()
    tests += [{"name": title, "output": "\n".join(lines)} for title, lines in parts]
    tests.append({"name": graded[0], "output": "\n".join(graded[1]), "visibility": "hidden"})
    written = ", ".join(describe_answer(record, problem) for problem in WRITTEN)
    return {
        "score": record["automatic"],
        "execution_time": round(record["seconds"]),
        "output": f"Automatic points: {record['automatic']} of {sum(AUTOMATIC.values())}. Read by a person: {written}.",
        "stdout_visibility": "hidden",
        "tests": [{"output_format": "text", "visibility": "visible"} | test for test in tests],
    }
