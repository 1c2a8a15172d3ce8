"""The rooms of the house: imports run one way, files stay short, and what needs no torch does not import it."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

FILES = [path for folder in ("helpers", "instructor") for path in sorted((ROOT / folder).rglob("*.py"))]
# A room may import those before it.
ROOMS = [
    {"settings"},
    {"hub"},
    {"tables"},
    {"recipe", "results", "data", "models", "speed", "report"},
    {"progress", "plots", "lab_plots", "tokens", "checkpoints", "exercises", "checks"},
    {"prepare", "workers"},
    {"training"},
    {"runs"},
    {"sweep", "lab"},
    {"answers", "doctor"},
    {"submit"},
    {"__main__", "__init__"},
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def list_imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it, and all names that may be modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imports_of(path: Path) -> set[str]:
    """The course's modules that a file imports."""
    return list_imports(path) & {name_of(each) for each in FILES} - {"helpers", name_of(path)}


def test_there_is_no_circle_of_imports():
    TopologicalSorter({name_of(path): imports_of(path) for path in FILES}).prepare()


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[-2] == "helpers"], ids=lambda path: path.stem)
def test_a_room_imports_only_rooms_before_it(path):
    level = {name: number for number, rooms in enumerate(ROOMS) for name in rooms}
    assert path.stem in level, f"{path.name} has no place in the list of rooms"
    for name in imports_of(path):
        assert name.startswith("helpers."), f"{path.name} imports {name}, which students do not get"
        assert level[name.split(".")[1]] <= level[path.stem], f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_longer_than_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


NO_TORCH = "settings recipe results report progress plots lab_plots answers workers checks.judge __main__"


def test_what_needs_no_torch_does_not_import_it():
    modules = ", ".join(f"helpers.{name}" for name in NO_TORCH.split())
    code = f"import sys, {modules}; assert not {{'torch', 'transformers', 'optuna'}} & {{*sys.modules}}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
