"""Read a submission without running its code: the answers, changes to notebooks, and the results handed in.

`examine_apart` does so in a process with limits, so that a submission can harm only that process.
"""

import base64
import json
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers import answers
from helpers.answers import NOTEBOOKS, collect_answers, find_answers, find_lost_images, parse_notebook, take_figures
from helpers.results import choose_best, load_results, select_runs
from helpers.settings import CourseError, Settings
from helpers.submit import check_results, is_made_with, noting
from instructor.reader import MEBI, Part, read_submission
from instructor.release import NAME, OWNER

MAX_SHOWN, MAX_CELLS = 20_000, 20  # characters and cells of an answer
# Line feed and tab; joiners for Persian, Hindi and emoji; marks for the direction of Arabic and Hebrew; soft hyphens.
VISIBLE = "\n\t\u200c\u200d\u200e\u200f\u061c\xad"
MAX_IMAGES, MAX_ALBUM = 12, 40 * MEBI  # number, and bytes of all together
SECONDS, CPU_SECONDS, MEMORY = 60, 30, 3072 * MEBI
Course = dict[str, dict[str, str]]  # for each notebook, the cells' sources by id, without answers

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def describe_course(notebooks: dict[str, NotebookNode]) -> Course:
    return {
        name: {cell.id: cell.source.strip() for cell in _leave_out_answers(notebook)}
        for name, notebook in notebooks.items()
    }


def _leave_out_answers(notebook: NotebookNode) -> list[NotebookNode]:
    answers = {id(cell) for _, cell in find_answers(notebook)}
    return [cell for cell in notebook.cells if id(cell) not in answers]


def examine_apart(parts: list[Part], course: Course) -> dict[str, Any]:
    """Run `examine` in a separate process, with at most 30 s of CPU and 3 GiB; never raises because of a submission."""
    refused = f"it cannot be read within {SECONDS} s, {CPU_SECONDS} s of CPU and {MEMORY // MEBI:,} MiB of memory"
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=_answer, args=(writer, parts, course), daemon=True)
    process.start()
    writer.close()
    try:
        if reader.poll(SECONDS):
            return json.loads(reader.recv_bytes(96 * MEBI))
    except (EOFError, OSError, ValueError):  # It was killed, or sent something else.
        process.join(1)
        refused += f" (the reader's exit code: {process.exitcode})"
    finally:
        process.kill()
        process.join()
        reader.close()
    return _find_nothing(f"{refused}.")


def _answer(writer: Any, parts: list[Part], course: Course) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it, too; the grader ends it.
    try:
        writer.send_bytes(json.dumps(examine(parts, course)).encode())
    except MemoryError:
        os._exit(1)


def _find_nothing(refused: str) -> dict[str, Any]:
    found = {"refused": clip(refused, 500), "fingerprint": "", "exercises": None, "answers": {}, "images": {}}
    return found | {"notes": [], "unplaced": [], "results": []}


def examine(parts: list[Part], course: Course) -> dict[str, Any]:
    """Everything that a sheet says about a submission without running its code, as JSON data; bytes are in base64."""
    submission = read_submission(parts)
    found = _find_nothing(submission.refused) | {"fingerprint": submission.fingerprint()}
    if submission.refused:
        return found
    found["notes"] += submission.notes
    notebooks = []
    for name in NOTEBOOKS:
        with noting(found["notes"]):
            if name not in submission.files:
                raise CourseError(f"{name} is missing.")
            notebooks.append(parse_notebook(submission.files[name], name))
            notes, unplaced = compare(course[name], notebooks[-1])
            found["notes"] += [f"{name}: {note}" for note in notes]
            found["unplaced"] += unplaced
    _add_answers(found, notebooks)
    if "exercises.py" in submission.files:
        found["exercises"] = base64.b64encode(submission.files["exercises.py"]).decode()
    found["results"] = describe_results(submission.files)
    found["notes"] = [clip(note, 500) for note in found["notes"][:40]]
    return found


def _add_answers(found: dict[str, Any], notebooks: list[NotebookNode]) -> None:
    for problem, cells in collect_answers(notebooks).items():
        texts = []
        if len(cells) > MAX_CELLS:
            found["notes"].append(f"answer {problem} is in {len(cells)} cells; the first {MAX_CELLS} are shown.")
        for number, cell in enumerate(cells[:MAX_CELLS], start=1):
            text, images = take_figures(cell, f"{problem}-{number}")
            texts.append(text)
            for name, data in images.items():
                usual = data.startswith(answers.IMAGES.get(Path(name).suffix, b"none"))
                taken = sum(map(len, found["images"].values())) * 3 // 4 + len(data)
                if usual and taken <= MAX_ALBUM and len(found["images"]) < MAX_IMAGES:
                    found["images"][name] = base64.b64encode(data).decode()
                else:
                    found["notes"].append(f"{name} is not shown: no image of a usual kind, or too much of it.")
            missing = find_lost_images(cell)[:3]
            found["notes"] += [f"answer {problem} shows {name:.80}, which is not in the notebook." for name in missing]
        if texts:
            found["answers"][problem] = shorten("\n\n".join(texts))


def compare(course: dict[str, str], notebook: NotebookNode) -> tuple[list[str], list[str]]:
    """What a student changed in a notebook, and the cells that are not the course's, for a person to read.

    Cells are recognised by their text, since editors change ids. An answer may be in the wrong cell.
    """
    cells = [cell for cell in _leave_out_answers(notebook) if cell.source.strip()]
    known = [(text, _allow_any_place(text)) for text in course.values()]
    found = [next((text for text, pattern in known if pattern.fullmatch(cell.source.strip())), None) for cell in cells]
    lost = [name for name, text in course.items() if text and text not in found]
    own = [cell for cell, text in zip(cells, found, strict=True) if text is None]
    notes = []
    if 3 * len(lost) > 2 * len(course):
        notes.append("is another notebook than the course's: most of the course's cells are not in it.")
    elif lost:
        shown = ", ".join(lost[:8])
        notes.append(f"{len(lost)} cells changed or deleted, executed as the course wrote them: {shown}.")
    if own:
        which = f"the first {MAX_CELLS} shown" if len(own) > MAX_CELLS else "shown"
        notes.append(f"{len(own):,} cells changed or added, {which} with the answers, not executed.")
    own.sort(key=lambda cell: cell.cell_type == "code")
    return notes, [shorten(cell.source.strip()) for cell in own[:MAX_CELLS]]


def _allow_any_place(text: str) -> re.Pattern:
    """A pattern for a course's cell, with any repository that `release --repo` may have written into it."""
    pattern = re.escape(text)
    if OWNER.decode() in text:
        pattern = pattern.replace(re.escape(OWNER.decode()), r"[\w-]+").replace(re.escape(NAME.decode()), r"[\w.-]+")
    return re.compile(pattern)


def describe_results(files: dict[str, bytes]) -> list[str]:
    """Whether a results file looks like a run of the student's code; it earns no points, since anyone can write one.

    This does not use `helpers.report`, whose libraries need more memory than `examine_apart` allows.
    """
    if "results.json" not in files:
        return ["results.json is missing."]
    lines, settings = [], Settings()
    with tempfile.TemporaryDirectory() as folder:
        path, exercises = Path(folder, "results.json"), Path(folder, "exercises.py")
        path.write_bytes(files["results.json"])
        exercises.write_bytes(files.get("exercises.py", b""))
        try:
            results = load_results(path)
            run = results["provenance"]
            code = "the same code as" if is_made_with(results, exercises) else "other code than"
            lines.append(
                f"made by {code} handed in: profile {run['profile']}, {run['wall_seconds'] / 60:.1f} minutes,"
                f" {run['finished']}, Python {run['versions']['python']}, torch {run['versions']['torch']}"
            )
            for policy in ("full", "bitfit"):
                runs = select_runs(results, policy=policy, seed=settings.seed, epochs=settings.epochs)
                best = choose_best(runs) or {}
                if test := best.get("test"):  # Else `check_results` reports it.
                    lines.append(
                        f"{policy}: validation {best['validation_accuracy']:.4f} at {best['learning_rate']:g} and"
                        f" {best['batch_size']:d}, test {test['accuracy']:.4f} on {test['n']:,d} reviews,"
                        f" {best['trainable_parameters']:,d} trained parameters"
                    )
            check_results(results, settings)
        except CourseError as error:
            lines.append(f"ODD: {str(error).replace(str(path), path.name)}")
        except Exception as error:  # Anyone can write one.
            lines.append(f"ODD: results.json is not a results file of this version of the course ({error!r}).")
    return [clip(line, 400) for line in lines]


def shorten(text: str) -> str:
    """Cut a text to a readable length, and make invisible characters visible."""
    text = text.replace("\r\n", "\n")
    shown = "".join(
        sign if sign in VISIBLE or sign.isprintable() or unicodedata.category(sign) == "Zs" else f"\\u{ord(sign):04x}"
        for sign in text[:MAX_SHOWN]
    )
    return shown + (f"\n[... {len(text) - MAX_SHOWN:,} more characters]" if len(text) > MAX_SHOWN else "")


def clip(text: str, length: int) -> str:
    """Make a text one line of visible characters, of limited length."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text[: 2 * length])
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."
