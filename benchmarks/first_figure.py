"""How long until a student sees the first figure of notebook 01, if pip has all packages in its cache?

    python benchmarks/first_figure.py

`here`: a fresh clone of the last commit, set up with make, then the notebook's cells up to the first picture, in a new
kernel. `colab`: the same cells in an environment with Colab's packages (tests/test_colab.py), where the bootstrap cell
downloads and installs the course. Writes benchmarks/first_figure.json.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from sides import save

from helpers.results import describe_machine, describe_versions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from test_colab import Colab, execute  # noqa: E402


def write_first_cells(path: Path) -> None:
    """Write the notebook up to the first cell whose committed output is a picture."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_bert_inputs.ipynb", as_version=4)
    drawn = ["image/png" in str(cell.get("outputs")) for cell in notebook.cells]
    notebook.cells = notebook.cells[: drawn.index(True) + 1]
    nbformat.write(notebook, path)


def set_up(folder: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    subprocess.run(["make", "--quiet", "-C", folder, ".venv/.installed-base"], check=True, stdout=subprocess.DEVNULL)


def measure(action: Callable, *arguments: Path) -> float:
    """The time that an action takes, in seconds."""
    started = time.monotonic()
    action(*arguments)
    return round(time.monotonic() - started, 1)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = folder / "cells.ipynb"
        write_first_cells(cells)
        colab = Colab(folder / "colab")
        clone = folder / "clone"
        found = {
            "here": {
                "set_up_seconds": measure(set_up, clone),
                "set_up_gb": round(sum(path.lstat().st_blocks for path in clone.rglob(".venv/**/*")) * 512 / 1e9, 1),
                "notebook_seconds": measure(execute, clone / ".venv" / "bin" / "python", cells, clone / "notebooks"),
            },
            "colab": {"set_up_seconds": 0.0, "notebook_seconds": measure(colab.execute, cells)},
        }
    print(found)
    provenance = {"versions": describe_versions(), "hardware": describe_machine()}
    save("first_figure", provenance, {"until_the_first_figure": found})


if __name__ == "__main__":
    main()
