"""Put a student's written answers into the course's own notebooks, cell by cell through the cells' ids."""

import copy
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

WRITTEN = ("1b", "1c", "3a", "3b")
PROMPTS = ("", "*Your answer here.*", "YOUR ANSWER HERE")  # As in helpers.answers.
MAX_SHOWN = 20_000  # characters of an answer
MAX_CELLS = 5_000


@dataclass
class Rebuilt:
    """A notebook to be re-executed, the answers by problem, cells that belong nowhere, and what was odd."""

    notebook: dict[str, Any]
    answers: dict[str, str] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rebuild(course: dict[str, Any], data: bytes | None) -> Rebuilt:
    """The course's cells in the course's order, with the student's answers in them; never raises.

    Of cells with the same id the first counts. Cells that the course has not are shown to the reader and not executed;
    cells of the course that were changed or deleted are executed as the course wrote them. Stored outputs go unread.
    """
    rebuilt = Rebuilt(copy.deepcopy(course))
    for cell in rebuilt.notebook["cells"]:
        if find_problem(cell):
            cell["source"] = PROMPTS[1]
    if data is None:
        rebuilt.notes.append("is missing")
        return rebuilt
    cells = read_cells(data)
    if isinstance(cells, str):
        rebuilt.notes.append(cells)
        return rebuilt
    known = {cell["id"]: cell for cell in course["cells"]}
    _recognise(rebuilt, course, cells)
    first: dict[str, dict[str, Any]] = {}
    for cell in cells:
        first.setdefault(cell["id"], cell)
    if cells and 3 * len(known.keys() & first.keys()) < len(known):
        rebuilt.notes.append("is another notebook than the course's: most of the course's cells are not in it")
    _place_answers(rebuilt, first)
    _note_changes(rebuilt, course, cells, first)
    return rebuilt


def read_cells(data: bytes) -> list[dict[str, Any]] | str:
    """The cells with `id` (perhaps empty), `type`, `source` and `tags`, all of the right kind; or what is wrong."""
    try:
        notebook = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    except (ValueError, RecursionError, MemoryError):
        return "is not a notebook (no readable JSON)"
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        return "is not a notebook (it has no list of cells)"
    if len(notebook["cells"]) > MAX_CELLS:
        return f"has {len(notebook['cells']):,} cells, more than are read"
    cells = []
    for cell in notebook["cells"]:
        if not isinstance(cell, dict):
            continue
        source, metadata = cell.get("source"), cell.get("metadata")
        if isinstance(source, list):
            source = "".join(part for part in source if isinstance(part, str))
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        cells.append(
            {
                "id": cell["id"] if isinstance(cell.get("id"), str) else "",
                "type": cell.get("cell_type") if isinstance(cell.get("cell_type"), str) else "",
                "source": source if isinstance(source, str) else "",
                "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
            }
        )
    return cells


def find_problem(cell: dict[str, Any]) -> str | None:
    """The written problem that a cell of the course answers."""
    tags = cell.get("metadata", {}).get("tags", [])
    return next((p for p in WRITTEN if "answer" in tags and f"problem-{p}" in tags), None)


def shorten(text: str) -> str:
    """No more than can be read, and nothing that a reader cannot see."""
    text = text.replace("\r\n", "\n")
    shown = "".join(
        sign if sign in "\n\t" or sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text[:MAX_SHOWN]
    )
    return shown + (f"\n[... {len(text) - MAX_SHOWN:,} more characters]" if len(text) > MAX_SHOWN else "")


def _recognise(rebuilt: Rebuilt, course: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    """Some editors give cells new ids, or none: an answer's tags and the text of other cells tell which they are."""
    missing = [cell for cell in course["cells"] if cell["id"] not in {cell["id"] for cell in cells}]
    by_text = {join(cell["source"]).strip(): cell["id"] for cell in missing if not find_problem(cell)}
    by_tag = {f"problem-{find_problem(cell)}": cell["id"] for cell in missing if find_problem(cell)}
    known = {cell["id"] for cell in course["cells"]}
    lost = 0
    for cell in cells:
        if cell["id"] in known:
            continue
        tag = next((tag for tag in cell["tags"] if tag in by_tag), None) if "answer" in cell["tags"] else None
        name = by_tag.pop(tag) if tag else by_text.pop(cell["source"].strip(), None)
        if name is not None:
            cell["id"], lost = name, lost + 1
    if lost:
        rebuilt.notes.append(f"{lost} cells have lost their ids and were recognised by their text or tags")


def _place_answers(rebuilt: Rebuilt, first: dict[str, dict[str, Any]]) -> None:
    for cell in rebuilt.notebook["cells"]:
        problem = find_problem(cell)
        if problem is None:
            continue
        answer = first.get(cell["id"])
        if answer is not None and answer["source"].strip() not in PROMPTS:
            rebuilt.answers[problem] = shorten(answer["source"].strip())
            cell["source"] = rebuilt.answers[problem]


def _note_changes(rebuilt: Rebuilt, course: dict, cells: list[dict[str, Any]], first: dict[str, dict]) -> None:
    known = {cell["id"]: cell for cell in course["cells"]}
    present = [cell["id"] for cell in cells if cell["id"] in known]
    missing = [name for name in known if name not in first]
    changed = [
        name
        for name, cell in known.items()
        if name in first and not find_problem(cell) and first[name]["source"].strip() != join(cell["source"]).strip()
    ]
    doubled = sorted(name for name, count in Counter(present).items() if count > 1)
    order = list(dict.fromkeys(present))
    moved = order != [name for name in known if name in first]
    extra = [cell for cell in cells if cell["id"] not in known]
    for names, what in (
        (missing, "cells deleted, executed all the same"),
        (changed, "cells changed, executed as the course wrote them"),
        (doubled, "ids twice, of which the first counts"),
    ):
        if names:
            rebuilt.notes.append(f"{what}: {', '.join(names[:8])}{' and more' * (len(names) > 8)}")
    if moved:
        rebuilt.notes.append("cells moved, executed in the course's order")
    if extra:
        rebuilt.notes.append(f"{len(extra):,} cells added, shown with the answers, not executed")
    rebuilt.unplaced = [shorten(cell["source"]) for cell in extra if cell["source"].strip()][:20]


def join(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
