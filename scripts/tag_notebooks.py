"""Write nbgrader's metadata (schema version 3) into the notebooks' cells; running it again changes nothing.

    python scripts/tag_notebooks.py

Outputs stay as they are. Run it after adding a problem, an answer cell or a check.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import nbformat

from helpers.answers import find_points

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        points = find_points(notebook)
        for cell in notebook.cells:
            cell.metadata.pop("nbgrader", None)
            if role := describe_role(cell, points):
                # Notebooks may share cell ids, but nbgrader's must be unique in the whole assignment.
                named = {"schema_version": 3, "grade_id": f"{path.name[:2]}-{cell.id}", "cell_type": cell.cell_type}
                cell.metadata["nbgrader"] = named | {"task": False} | role
        nbformat.write(notebook, path)


def describe_role(cell: nbformat.NotebookNode, points: dict[str, int]) -> dict[str, Any] | None:
    """Answers are graded by hand, checks by running them; cells that checks need are locked, and others ignored."""
    tags = cell.metadata.get("tags", [])
    if "answer" in tags:
        (problem,) = (tag.removeprefix("problem-") for tag in tags if tag.startswith("problem-"))
        if problem not in points:  # Notebook 05 discusses earlier answers again, for no points.
            return None
        return {"grade": True, "solution": True, "locked": False, "points": points[problem]}
    if cell.cell_type != "code":
        return None
    if check := re.match(r"checks\.problem_(\w+)\(", cell.source):
        return {"grade": True, "solution": False, "locked": True, "points": points[check[1]]}
    if "bootstrap" in tags or "importlib.reload(exercises)" in cell.source:
        return {"grade": False, "solution": False, "locked": True}
    return None


if __name__ == "__main__":
    main()
