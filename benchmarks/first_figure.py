"""How long until a student sees the first figure of notebook 01, with packages that pip has in its cache?

    python benchmarks/first_figure.py

`here`: a fresh clone of the last commit, its set-up with make, then the notebook's cells up to the first that draws a
picture, in a new kernel. `colab`: the same cells in an environment that has Colab's packages (tests/test_colab.py),
where the bootstrap cell fetches and installs the course. Writes benchmarks/first_figure.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import nbformat

from helpers.results import describe_machine, describe_versions
from helpers.settings import write_atomically

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from test_colab import Colab  # noqa: E402

FILE = Path(__file__).with_suffix(".json")
NOTEBOOK = ROOT / "notebooks" / "01_bert_inputs.ipynb"


def write_first_cells(path: Path) -> None:
    """Write the notebook up to the first cell whose committed output is a picture."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    drawn = ["image/png" in str(cell.get("outputs")) for cell in notebook.cells]
    notebook.cells = notebook.cells[: drawn.index(True) + 1]
    nbformat.write(notebook, path)


def measure_here(folder: Path) -> list[float]:
    """The seconds of the set-up and of the cells."""
    times = [time.monotonic()]
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    subprocess.run(["make", "--quiet", "-C", folder, ".venv/.installed-base"], check=True, stdout=subprocess.DEVNULL)
    times.append(time.monotonic())
    cells = folder / "notebooks" / "first_cells.ipynb"
    write_first_cells(cells)
    execute = ["-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "--log-level", "WARN", cells]
    subprocess.run([folder / ".venv" / "bin" / "python", *execute], check=True)
    times.append(time.monotonic())
    return [times[1] - times[0], times[2] - times[1]]


def measure_colab(folder: Path) -> list[float]:
    colab, cells = Colab(folder), folder / "first_cells.ipynb"
    write_first_cells(cells)
    started = time.monotonic()
    colab.execute(cells)
    return [0.0, time.monotonic() - started]


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "colab").mkdir()
        for name, measure in {"here": measure_here, "colab": measure_colab}.items():
            set_up, cells = measure(Path(folder) / name)
            found[name] = {"set_up_seconds": round(set_up, 1), "notebook_seconds": round(cells, 1)}
            print(name, found[name], flush=True)
    provenance = {
        "notebook": NOTEBOOK.name,
        "versions": describe_versions(),
        "hardware": describe_machine(),
        "finished": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    write_atomically(FILE, json.dumps({"provenance": provenance, "until_the_first_figure": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
