"""What can be read of a submission without running its code: answers, changed notebooks, and the results handed in.

`examine_apart` does it in a process with limits: what a submission does to its reader, it does to that process alone.
"""

import base64
import json
import multiprocessing
import resource
import tempfile
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers.answers import NOTEBOOKS, collect_answers, find_problem, parse_notebook, take_figures
from helpers.results import fingerprint_code
from helpers.settings import CourseError
from helpers.submit import LOCAL_IMAGE
from instructor.reader import MEBI, read_submission

MAX_SHOWN = 20_000  # characters of an answer
MAX_IMAGE, MAX_IMAGES = 8 * MEBI, 12
IMAGES = {".png": b"\x89PNG", ".jpg": b"\xff\xd8\xff", ".gif": b"GIF8", ".webp": b"RIFF"}
SECONDS, CPU_SECONDS, MEMORY = 60, 30, 3072 * MEBI
Course = dict[str, dict[str, str]]  # of each notebook the cells' sources by their ids, answers left out

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def describe_course(notebooks: dict[str, NotebookNode]) -> Course:
    return {
        name: {cell.id: cell.source.strip() for cell in notebook.cells if not find_problem(cell)}
        for name, notebook in notebooks.items()
    }


def examine_apart(parts: list[tuple[str, Path, str]], course: Course) -> dict[str, Any]:
    """`examine` in a process of its own, which may use 30 s of CPU and 3 GiB; never raises for what a submission is."""
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=_answer, args=(writer, parts, course), daemon=True)
    process.start()
    writer.close()
    try:
        if reader.poll(SECONDS):
            return json.loads(reader.recv_bytes(64 * MEBI))
    except (EOFError, OSError, ValueError):
        pass  # It was ended, or sent what it should not.
    finally:
        process.kill()
        process.join()
        reader.close()
    why = f"reading it takes more than {CPU_SECONDS} s or {MEMORY // MEBI:,} MiB."
    return {"refused": why, "fingerprint": "", "notes": [], "answers": {}, "unplaced": [], "images": {}} | {
        "exercises": None,
        "results": [],
    }


def _answer(writer: Any, parts: list[tuple[str, Path, str]], course: Course) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    writer.send_bytes(json.dumps(examine(parts, course)).encode())


def examine(parts: list[tuple[str, Path, str]], course: Course) -> dict[str, Any]:
    """Everything that a sheet says of a submission before its code is run, as JSON data; bytes are in base64."""
    submission = read_submission(parts)
    found: dict[str, Any] = {"refused": submission.refused, "fingerprint": submission.fingerprint(), "answers": {}}
    found |= {"notes": submission.notes, "unplaced": [], "images": {}, "exercises": None, "results": []}
    if not submission.refused:
        notebooks = []
        for name in NOTEBOOKS:
            if name not in submission.files:
                found["notes"].append(f"{name} is missing.")
                continue
            try:
                notebooks.append(parse_notebook(submission.files[name], name))
            except CourseError as error:
                found["notes"].append(str(error))
                continue
            notes, unplaced = compare(course[name], notebooks[-1])
            found["notes"] += [f"{name}: {note}" for note in notes]
            found["unplaced"] += unplaced
        _add_answers(found, notebooks)
        code = submission.files.get("exercises.py")
        found["exercises"] = None if code is None else base64.b64encode(code).decode()
        found["results"] = describe_results(submission.files.get("results.json"), _fingerprint(code))
    found["notes"] = [clip(note, 500) for note in found["notes"][:40] if not submission.refused]
    found["refused"] = clip(found["refused"], 500)
    return found


def _add_answers(found: dict[str, Any], notebooks: list[NotebookNode]) -> None:
    for problem, cells in collect_answers(notebooks).items():
        texts = []
        for number, cell in enumerate(cells[:10], start=1):
            text, images = take_figures(cell, f"{problem}-{number}")
            texts.append(text)
            for name, data in images.items():
                if len(data) <= MAX_IMAGE and data.startswith(IMAGES.get(Path(name).suffix, b"none")):
                    found["images"][name] = base64.b64encode(data).decode()
                else:
                    found["notes"].append(f"answer {problem}: {name} is not shown, for it is no image of a usual kind.")
            missing = LOCAL_IMAGE.findall(cell.source)
            found["notes"] += [f"answer {problem} shows {name:.80}, which was not handed in." for name in missing[:3]]
        if texts:
            found["answers"][problem] = shorten("\n\n".join(texts))
    if len(found["images"]) > MAX_IMAGES:
        found["notes"].append(f"{len(found['images']) - MAX_IMAGES} images are not shown: there are too many.")
        found["images"] = dict(list(found["images"].items())[:MAX_IMAGES])


def compare(course: dict[str, str], notebook: NotebookNode) -> tuple[list[str], list[str]]:
    """What a student changed of a notebook, and the texts that belong nowhere, for a person to read.

    A cell is recognised by its id, or, where an editor has given it another, by its text.
    """
    cells = {cell.id: cell.source.strip() for cell in reversed(notebook.cells) if not find_problem(cell)}
    texts = set(cells.values())
    lost = {name: text for name, text in course.items() if text not in texts}
    deleted = [name for name in lost if name not in cells]
    changed = [name for name in lost if name in cells]
    added = [text for name, text in cells.items() if text and text not in course.values() and name not in course]
    notes = []
    if 3 * len(deleted) > 2 * len(course):
        notes.append("is another notebook than the course's: most of the course's cells are not in it.")
    elif deleted:
        notes.append(f"{len(deleted)} cells deleted, executed all the same: {', '.join(deleted[:8])}.")
    if changed:
        notes.append(f"{len(changed)} cells changed, executed as the course wrote them: {', '.join(changed[:8])}.")
    if added:
        notes.append(f"{len(added):,} cells added, shown with the answers, not executed.")
    kinds = {cell.id: cell.cell_type for cell in notebook.cells}
    moved = [cells[name] for name in changed if kinds[name] == "markdown"]  # An answer may stand in the wrong cell.
    return notes, [shorten(text) for text in (*moved, *reversed(added))][:20]


def describe_results(data: bytes | None, code: str) -> list[str]:
    """Whether a results file looks like a run of the student's code; it earns no points, since anyone can write one."""
    if data is None:
        return ["results.json is missing."]
    try:
        results = json.loads(data)
        run, lines = results["provenance"], []
        for policy in list(dict.fromkeys(run["policy"] for run in results["runs"]))[:6]:
            runs = [run for run in results["runs"] if run["policy"] == policy]
            (tested,) = [run for run in runs if "test" in run]
            cells = {(run["learning_rate"], run["batch_size"]) for run in runs}
            whole = [run["validation_accuracy"] for run in runs if run["history"][-1]["epoch"] >= run["epochs"]]
            odd = []
            if len(cells) != 20 or len(runs) != 20:
                odd.append(f"{len(cells)} different cells instead of 20")
            if not all(0 <= accuracy <= 1 for accuracy in (*whole, tested["test"]["accuracy"])):
                odd.append("an accuracy that is none")
            if tested["validation_accuracy"] != max(whole):
                odd.append("the tested run is not the best")
            lines.append(
                f"{policy:.20}: validation {tested['validation_accuracy']:.4f} at {tested['learning_rate']:g} and"
                f" {tested['batch_size']:d}, test {tested['test']['accuracy']:.4f} on {tested['test']['n']:,d} reviews,"
                f" {tested['trainable_parameters']:,d} trained parameters" + (f"; ODD: {', '.join(odd)}" if odd else "")
            )
        same = "the same code as handed in" if code and run["code"] == code else "other code than was handed in"
        versions = ", ".join(f"{name} {run['versions'][name]}" for name in ("python", "torch"))
        where = f"profile {run['profile']}, {run['wall_seconds'] / 60:.1f} minutes, {run['finished']}, {versions}"
        return [clip(line, 400) for line in [*lines, f"made by {same} ({where})"]]
    except Exception:
        return ["results.json is not a results file of this version of the course."]


def _fingerprint(code: bytes | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "exercises.py")
        path.write_bytes(code or b"")
        try:
            return fingerprint_code(path)
        except Exception:  # What does not compile has none.
            return ""


def shorten(text: str) -> str:
    """No more than can be read, and nothing that a reader cannot see."""
    text = text.replace("\r\n", "\n")
    shown = "".join(
        sign if sign in "\n\t" or sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text[:MAX_SHOWN]
    )
    return shown + (f"\n[... {len(text) - MAX_SHOWN:,} more characters]" if len(text) > MAX_SHOWN else "")


def clip(text: str, length: int) -> str:
    """One line of visible signs."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text[: 2 * length])
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."
