"""How long until a student sees the first figure of notebook 01, with packages that pip has in its cache?

    python benchmarks/first_figure.py

`here`: a fresh clone of the last commit, its set-up with make, then the notebook in a new kernel, cell by cell up to
its first picture. `colab`: the same notebook in an environment that has Colab's packages (tests/test_colab.py), where
its bootstrap cell fetches and installs the course. Writes benchmarks/first_figure.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from helpers.results import describe_machine, describe_versions
from helpers.settings import write_atomically

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import test_colab  # noqa: E402

FILE = Path(__file__).with_suffix(".json")
NOTEBOOK = ROOT / "notebooks" / "01_bert_inputs.ipynb"
# Run by the environment's own Python; prints the number of cells that it took.
UNTIL_FIGURE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": sys.argv[2]}})
with client.setup_kernel():
    for number, cell in enumerate(notebook.cells):
        client.execute_cell(cell, number)
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            print(number + 1)
            break
    else:
        sys.exit("no cell draws a figure")
"""


def measure_here(folder: Path) -> dict[str, float]:
    started = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    venv = folder / ".venv"
    subprocess.run(["make", "--quiet", "-C", folder, ".venv/.installed-base"], check=True, stdout=subprocess.DEVNULL)
    installed = time.monotonic()
    command = [venv / "bin" / "python", "-c", UNTIL_FIGURE, NOTEBOOK, folder / "notebooks"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return describe(installed - started, time.monotonic() - installed)


def measure_colab(folder: Path) -> dict[str, float]:
    colab = test_colab.Colab(folder)
    started = time.monotonic()
    colab.run(colab.python, "-c", UNTIL_FIGURE, NOTEBOOK, colab.content)
    return describe(0.0, time.monotonic() - started)


def describe(set_up: float, notebook: float) -> dict[str, float]:
    return {"set_up_seconds": round(set_up, 1), "notebook_seconds": round(notebook, 1)}


def main() -> None:
    found = {}
    for name, measure in {"here": measure_here, "colab": measure_colab}.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(Path(folder) / "p" if name == "here" else Path(folder))
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
