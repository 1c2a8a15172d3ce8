"""What people read: spelt right, and its links inside the project lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT

CARDS = sorted((ROOT / "helpers" / "offline").rglob("README.md"))
PAGES = [ROOT / "README.md", ROOT / "answers.md", *sorted((ROOT / "docs").glob("*.md")), *CARDS]
MODULES = [path for room in ("helpers", "instructor") for path in sorted((ROOT / room).rglob("*.py"))]
# A file or folder that a text names in code marks.
NAMED = re.compile(r"`((?:helpers|instructor|results|docs|tests|scripts|benchmarks|notebooks)/[\w./+-]*)`")
LINK = re.compile(r'\]\(([^)\s]+)(?: "[^"]*")?\)|src="([^"]+)"')


def read(path: Path) -> str:
    """A file's text, or what is written between a notebook's code cells."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_spelling_also_of_the_authors_of_bitfit(tmp_path):
    for path in [*PAGES, *NOTEBOOKS, *MODULES]:
        assert not re.search(r"(?<!Ben )Zaken|Zaken[^.\n]{0,30}Goldberg[^.\n]{0,20}Ravfogel", read(path)), path
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(read(path), encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list=fo", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_bytes()) <= 8000


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_names_of_files_lead_somewhere(path):
    text = read(path)
    missing = [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    for link in ("".join(pair) for pair in LINK.findall(text)):
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        # docs/student.md becomes the README of the student version, so it is read in the folder above.
        base = ROOT if path.name == "student.md" else path.parent
        found = path if not target else base / target
        if not found.exists() or (anchor and anchor not in anchors(read(found))):
            missing.append(link)
    assert not missing
