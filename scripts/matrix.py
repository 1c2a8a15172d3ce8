"""Run the tests and the notebooks under other versions of Python and of the libraries, and print a table.

    python scripts/matrix.py [ROW ...]

Each row has a virtual environment and a record in build/matrix/ROW. The table, build/matrix/matrix.md and matrix.json,
is made from the records of all rows: to do one row again, name it. A Python that is not on this machine is skipped.
Where `make assignment` has finished, the notebooks find its 40 runs done and do not train them in every row again; the
unit tests train in all rows.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import report
from helpers.results import describe_machine
from helpers.settings import write_atomically

ROOT = Path(__file__).parents[1]
MATRIX = ROOT / "build" / "matrix"
DEFAULT = f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
SHOWN = ("python", "torch", "transformers", "datasets", "optuna", "numpy", "pandas", "ipywidgets", "ipython")
COUNTS = ("passed", "failed", "skipped", "seconds")
VERSIONS = f"""
import importlib.metadata, json, platform
versions = {{name: importlib.metadata.version(name) for name in {SHOWN[1:]!r}}}
print(json.dumps({{"python": platform.python_version()}} | versions))
"""


@dataclass(frozen=True)
class Row:
    """An environment: a Python, constraints for pip, and variables that the tests are told."""

    name: str
    python: str = DEFAULT
    constraints: str = "constraints.txt"
    extras: str = "test,postgres,nbgrader"
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return MATRIX / self.name

    @property
    def venv(self) -> Path:
        return self.folder / "venv"


ROWS = [
    Row("today"),
    Row("colab", constraints="constraints-colab.txt", extras="test,postgres", variables=(("COURSE_COLAB", "1"),)),
    *(Row(name, name) for name in PYTHONS if name != DEFAULT),
]


def main(names: list[str]) -> int:
    known = {row.name: row for row in ROWS}
    if unknown := set(names) - set(known):
        print(f"There is no row {', '.join(sorted(unknown))}. The rows are: {', '.join(known)}.", file=sys.stderr)
        return 2
    for row in [known[name] for name in names] or ROWS:
        write_atomically(row.folder / "row.json", json.dumps(try_row(row), indent=1) + "\n")
    paths = [row.folder / "row.json" for row in ROWS]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    write_atomically(
        MATRIX / "matrix.json", json.dumps({"hardware": describe_machine(), "rows": records}, indent=1) + "\n"
    )
    text = describe(records)
    write_atomically(MATRIX / "matrix.md", text + "\n")
    print(text)
    return int(any(is_bad(record) for record in records))


def try_row(row: Row) -> dict[str, Any]:
    """Install, run the unit tests, then nbval; a step's output goes to a log in the row's folder."""
    record = {"name": row.name, "constraints": row.constraints}
    base = find_python(row.python)
    if base is None:
        return record | {"skipped": f"{row.python} is not on this machine"}
    python = row.venv / "bin" / "python"
    try:
        record["install_seconds"] = install(row, base)
    except subprocess.CalledProcessError:
        return record | {"error": f"the installation failed; see {row.folder.relative_to(ROOT)}/install.log"}
    shutil.rmtree(row.folder / "build", ignore_errors=True)
    record["trains_the_40_runs"] = not (ROOT / "build" / "quick").exists()
    if not record["trains_the_40_runs"]:
        shutil.copytree(ROOT / "build" / "quick", row.folder / "build" / "quick")
    found = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    record["versions"] = json.loads(found.stdout)
    sanitize = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=1800"]
    sanitize += ["--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]
    for step, arguments in {
        "tests": ["-n", "auto", "--dist", "loadgroup", "tests"],
        "notebooks": [*sanitize, "notebooks"],
    }.items():
        print(f"{row.name}: {step}", flush=True)
        report_file = row.folder / f"{step}.xml"
        report_file.unlink(missing_ok=True)
        code, seconds = run(row, step, [python, "-m", "pytest", f"--junitxml={report_file}", *arguments])
        record[step] = count(report_file) | {"exit_code": code, "seconds": seconds}
    return record | {"finished": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}


def install(row: Row, base: str) -> float:
    """Make the virtual environment, unless it is there, made from the same files; returns the seconds that it took."""
    stamp, files = row.venv / "made_from.json", (ROOT / "pyproject.toml", ROOT / row.constraints)
    made_from = [base, row.extras, *(path.read_text(encoding="utf-8") for path in files)]
    if stamp.exists() and (made := json.loads(stamp.read_text(encoding="utf-8")))["from"] == made_from:
        return made["seconds"]
    print(f"{row.name}: installing", flush=True)
    shutil.rmtree(row.folder, ignore_errors=True)
    pip = [row.venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "-c", row.constraints]
    steps = [base, "-m", "venv", row.venv], [*pip, "-e", f".[{row.extras}]"]
    codes, seconds = zip(*(run(row, "install", step) for step in steps), strict=True)
    if any(codes):
        raise subprocess.CalledProcessError(max(codes), steps[1])
    write_atomically(stamp, json.dumps({"from": made_from, "seconds": sum(seconds)}))
    return sum(seconds)


def find_python(name: str) -> str | None:
    """The path of a Python that does start: a version manager may leave a command for one that it does not have."""
    path = sys.executable if name == DEFAULT else shutil.which(name)
    works = path and subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0
    return path if works else None


def run(row: Row, step: str, command: list[Any]) -> tuple[int, float]:
    """Run a step without the settings of whoever runs this; returns its exit code and seconds."""
    settings = ("COURSE_", "MAKE", "MFLAGS", "PYTHONPATH")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    clean |= {"COURSE_PROFILE": "quick", "COURSE_PROGRESS": "plain", "COURSE_BUILD": str(row.folder / "build")}
    clean |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **dict(row.variables)}
    row.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(row.folder / f"{step}.log", "w", encoding="utf-8") as log:
        done = subprocess.run(list(map(str, command)), cwd=ROOT, env=clean, stdout=log, stderr=subprocess.STDOUT)
    return done.returncode, round(time.monotonic() - started, 1)


def count(path: Path) -> dict[str, int]:
    """Read pytest's counts from its report; an error is a failure, too. Without a report pytest ran no test."""
    if not path.exists():
        return {"passed": 0, "failed": 0, "skipped": 0}
    (suite,) = xml.etree.ElementTree.parse(path).getroot()
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def is_bad(record: dict[str, Any]) -> bool:
    return "error" in record or any(record.get(step, {}).get("exit_code") for step in ("tests", "notebooks"))


def describe(records: list[dict[str, Any]]) -> str:
    """The table in Markdown, and a line for every row that has no figures."""
    lines = {}
    for record in records:
        if "versions" in record:
            line = dict(record["versions"])
            for step in ("tests", "notebooks"):
                numbers = record[step]
                line[f"{step}: passed / failed / skipped"] = " / ".join(str(numbers[name]) for name in COUNTS[:3])
                line[f"{step}: s"] = f"{numbers['seconds']:.0f}"
            lines[record["name"]] = line
    notes = [f"{record['name']}: {why}" for record in records if (why := record.get("skipped") or record.get("error"))]
    table = [report.to_markdown(pd.DataFrame.from_dict(lines, orient="index"))] if lines else []
    return "\n\n".join(table + notes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
