"""The engine: a run that has a record is done; an executor trains the others."""

import errno
import gc
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Any

import filelock
from safetensors import SafetensorError
from safetensors.torch import save

from helpers.checkpoints import drop_checkpoints, read_sealed, save_model, write_sealed
from helpers.models import check_policy, quiet_library
from helpers.prepare import Reviews, identify, prepare
from helpers.progress import Progress, State, choose_progress
from helpers.recipe import Mistake, demand
from helpers.results import blame_exercises, choose_best, fingerprint_code, is_whole, reached
from helpers.settings import CourseError, Run, Settings, check_number, find_build_folder, write_atomically
from helpers.training import train_run
from helpers.workers import call, count_workers, delayed_interrupts, is_loss, one_thread, open_executor, return_memory

STOPPED = "Stopped. Finished work is kept; run it again to continue from there."
RECORD = "record.json"
Record = dict[str, Any]


class TrainingStopped(KeyboardInterrupt):
    """The user has stopped the training; finished work is kept."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


@contextmanager
def explained() -> Iterator[None]:
    """Turn whatever stops a training (a mistake in a student's function, a full disk, Ctrl-C) into one sentence.

    Used as a decorator for functions that train or test, and for workers' jobs.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise TrainingStopped(STOPPED) from None
    except (CourseError, BrokenPipeError):  # BrokenPipeError: the reader of the output, such as `head`, has ended.
        raise
    except (Exception, SystemExit) as error:  # SystemExit: a student's `exit()`, else a silent end.
        raise CourseError(explain(error)) from error


def explain(error: BaseException) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, NotImplementedError) and str(error).startswith("Problem "):
        return str(error)  # A function that the student has not written yet.
    if is_loss(error):
        return "A worker was killed. Is there enough memory? Finished work is kept; run it again."
    said, full = blame_exercises(error), getattr(error, "errno", None) == errno.ENOSPC
    # On a full disk, torch.save raises a RuntimeError that does not mention it; tokenizers (Rust) a plain Exception.
    frames = extract_tb(error.__traceback__)
    saving = "_save_checkpoint" in {frame.name for frame in frames}
    disk = isinstance(error, (OSError, SafetensorError)) or "(os error " in str(error)
    if saving or (disk and (full or not said)):
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        place = getattr(error, "filename", None) or find_build_folder()
        known = isinstance(error, (FileExistsError, FileNotFoundError, NotADirectoryError))
        room = "" if known else " Is there room on the disk, and in your quota?"
        if isinstance(error, PermissionError):
            room = " If that is in the build folder, set COURSE_BUILD to a folder of your own."
        return f"Could not read or write {place}: {reason.rstrip('.')}.{room} Finished work is kept; run it again."
    if not said and not isinstance(error, Mistake):
        said = f"training stopped with {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    said = (said or str(error)).rstrip(".: ")
    trained = {Path(frame.filename).stem for frame in frames} & {"exercises", "prepare", "training", "recipe"}
    if not trained and isinstance(error, (TypeError, ValueError, LookupError, AttributeError)):
        return f"{said}. Are the arguments of this call what they should be?"
    advice = "the checks of problems 1d, 2a and 2b test exercises.py, and `python -m helpers doctor` tests this machine"
    return f"{said}. To find the cause: {advice}."


@explained()
@quiet_library()
def train_all(
    settings: Settings,
    runs: Run | Iterable[Run],
    workers: int | None = None,
    scheduler: str | None = None,
    until: float | None = None,
    keep_best: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> list[Record]:
    """Train the runs that have no record yet, or one that ends before the epoch `until`; returns all their records.

    Local `workers` (default: one single-threaded process per core; with 0, this process trains) or the workers of a
    Dask `scheduler` (tcp://HOST:PORT) share the runs; results do not depend on which worker trains a run. Interrupted
    runs resume after their last complete epoch. `keep_best` keeps the model of each policy's best run in the run's
    folder, in `model/`. `again` trains finished runs once more; their old records stay until then. Raises CourseError
    for errors, and TrainingStopped, a KeyboardInterrupt, if the user stops it.
    """
    runs = check_runs(runs)
    workers = check_number("workers", count_workers() if workers is None else workers)
    progress = progress or choose_progress()
    with locked(settings, progress):
        reviews, provenance = prepare(settings)
        for split, rows in reviews.items():  # The check has too few reviews to notice a function that keeps only 500.
            what = f"{split} reviews that preprocess_dataset returns"
            demand(what, provenance["data"][split], len(rows), "one row per review, neither more nor fewer.")
        board = Board(settings, runs, provenance, until, keep_best, progress)
        if again:
            board.known.clear()
        unlucky = 0
        while todo := board.todo():
            before = board.count_epochs()
            count = min(workers, len(todo))
            with open_executor(count, scheduler) as (executor, found):
                board.workers = min(found, len(todo))
                watch(executor, board, todo)
            unlucky = 0 if board.count_epochs() > before else unlucky + 1
            if unlucky == 3:
                raise CourseError(
                    f"The workers were killed three times without finishing an epoch; {len(board.todo())} runs are"
                    " left. Is there enough memory? Try fewer workers; finished work is kept."
                )
        board.show()
        if fingerprint_code() != provenance["code"]:
            raise CourseError(
                "exercises.py was changed during the training, so these runs belong to the old version. Undo the change"
                " to use them, or run this again to train with the new version."
            )
        return [board.known[run] for run in board.runs]


def check_runs(runs: Run | Iterable[Run]) -> list[Run]:
    """The given run or runs as a list; CourseError if there are none, or if one is not a Run."""
    runs = list(runs) if isinstance(runs, Iterable) else [runs]
    if not runs:
        raise CourseError("There is nothing to train: the list of runs is empty.")
    for run in runs:
        if not isinstance(run, Run):
            raise CourseError(f"A list of runs must contain only Run(...), but it contains {run!r:.80}.")
        check_policy(run.policy)
    return runs


def watch(executor: Executor, board: "Board", todo: list[Run]) -> None:
    """Hand out the runs and collect their results, until all are done or a worker is killed."""
    board.show()
    try:
        with delayed_interrupts():
            job = board.settings, board.provenance, board.until, board.keep_best
            pending = {executor.submit(call, "helpers.runs", "train", run, *job): run for run in todo}
        left = set(pending)
        while left:
            done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                board.finish(pending[future], *future.result())
            board.show()
    except Exception as error:
        if not is_loss(error):
            raise
        board.progress.say("A worker was killed (out of memory?); its runs are handed out again.")


class Board:
    """What is known about a list of runs, all read from their folders: `record.json`, or else `progress.json`."""

    def __init__(self, settings, runs, provenance, until, keep_best, progress):
        self.settings, self.runs, self.provenance = settings, list(dict.fromkeys(runs)), provenance
        self.until, self.keep_best, self.progress, self.workers = until, keep_best, progress, 1
        self.folders = {run: find_folder(settings, run, provenance) for run in self.runs}
        self.known = {run: record for run in self.runs if (record := read_sealed(self.folders[run] / RECORD))}

    def todo(self) -> list[Run]:
        """The runs to train; a run is done when its last measured epoch is the wanted one."""
        return [run for run in self.runs if not self.look(run).finished]

    def finish(self, run: Run, record: Record, weights: bytes | None) -> None:
        """Write a run's record, remove what only an unfinished run needs, and keep the policy's best model."""
        folder, self.known[run] = self.folders[run], record | {"workers": self.workers}
        mine = [other for other in self.known if other.policy == run.policy]
        if weights and choose_best(self.known[other] for other in self.runs if other in mine) is self.known[run]:
            save_model(weights, self.settings.model, folder / "model")
            for other in mine:
                if other != run:
                    shutil.rmtree(self.folders[other] / "model", ignore_errors=True)
        write_sealed(folder / RECORD, self.known[run])
        if is_whole(record):
            drop_checkpoints(folder)

    def look(self, run: Run) -> State:
        """How many epochs a run has done, its last accuracy, and whether it is being trained now."""
        record, until = self.known.get(run), min(self.until or run.epochs, run.epochs)
        done, accuracy = (reached(record), record["validation_accuracy"]) if record else (0.0, None)
        if done < until:
            with suppress(OSError, ValueError, LookupError, TypeError):
                seen = json.loads((self.folders[run] / "progress.json").read_text(encoding="utf-8"))
                last = seen["history"][-1]["validation_accuracy"] if seen["history"] else None
                epoch = min(seen["epoch"], until - 0.001)  # After its last step, a run still has to be evaluated.
                return State(run, epoch, until, last, time.time() - seen["time"] < 60)
        return State(run, min(done, until), until, accuracy)

    def count_epochs(self) -> int:
        return sum(math.floor(self.look(run).done) for run in self.runs)

    def show(self) -> None:
        self.progress.show([self.look(run) for run in self.runs])


def find_folder(settings: Settings, run: Run, provenance: dict[str, Any]) -> Path:
    """The folder of a run's record, checkpoints and model."""
    return settings.folder / "runs" / identify(run, provenance)


@explained()
@one_thread()
def train(
    run: Run, settings: Settings, provenance: dict[str, Any], until: float | None, with_weights: bool
) -> tuple[Record, bytes | None]:
    """A worker's job: train a run; returns its record and, for a complete run, the weights in safetensors format."""
    settings = replace(settings, precision=provenance["recipe"]["precision"])
    if not settings.build.is_dir():  # The worker is on another machine.
        settings = replace(settings, build=find_build_folder())
    reviews, own = prepare_once(settings, json.dumps(provenance))
    different = [name for name in ("model", "data", "code") if own[name] != provenance[name]]
    if different:
        raise CourseError(
            f"A worker has another {' and another '.join(different)} than the process that started the search: was"
            " a file changed in the meantime? Start the search again; on other machines, restart the workers, too."
        )
    folder = find_folder(settings, run, provenance)
    folder.mkdir(parents=True, exist_ok=True)
    told = tidied = 0.0

    def tell(epoch: float, history: list[dict[str, Any]]) -> None:
        nonlocal told, tidied
        if (now := time.monotonic()) > told + 0.8:
            told = now
            seen = {"time": time.time(), "epoch": epoch, "history": history}
            with suppress(CourseError):  # Windows cannot replace a file that is being read; the next call can.
                write_atomically(folder / "progress.json", json.dumps(seen))
        if now > tidied + 30:
            tidied = now
            return_memory()

    for left in folder.glob("tmp*"):  # Left over from a killed worker's `make_start`.
        shutil.rmtree(left, ignore_errors=True)
    model, record = train_run(settings, run, reviews, folder, until, tell)
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    return record, save(state, {"format": "pt"}) if with_weights and is_whole(record) else None


@lru_cache(1)  # Dask workers outlive searches: exercises.py may have changed since, or changed back.
def prepare_once(settings: Settings, provenance: str) -> tuple[Reviews, dict[str, Any]]:
    """A worker's reviews; `provenance`, which identifies all that they depend on, is the cache's key."""
    prepared = prepare(settings)
    gc.freeze()  # The Trainer collects garbage several times per run; spare it the objects loaded so far.
    return prepared


@contextmanager
def locked(settings: Settings, progress: Progress) -> Iterator[None]:
    """Ensure that only one process at a time trains in a build folder."""
    path = settings.folder / "training.lock"
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        path.touch()  # It may exist, and belong to another user, such as root.
    except OSError as error:
        raise CourseError(
            f"The folder {settings.folder} cannot be created or written to: {error.strerror}. Set COURSE_BUILD to a"
            " folder that you can write to."
        ) from error
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise CourseError(f"Another training is running in {settings.folder}. Wait for it, or stop it first.") from None
    except (OSError, NotImplementedError):
        progress.say(f"{settings.folder} is on a drive without file locks: do not start a second training there.")
    try:
        yield
    finally:
        progress.close()
        with suppress(OSError):
            lock.release()
