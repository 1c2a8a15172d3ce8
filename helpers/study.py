"""The queue of cells: an Optuna study in a database, from which any number of workers take each cell once."""

import json
import platform
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from helpers.settings import CourseError, Settings, set_aside, write_atomically

Cell = tuple[float, int]
HEARTBEAT = 20  # seconds between two signs of life of a worker
SILENCE = 180  # seconds after which a worker on another machine is taken for dead


@dataclass(frozen=True)
class Task:
    """A cell, to be trained to the end of the epoch `until`."""

    cell: Cell
    until: int


class CellQueue:
    """A policy's tasks and their results, in the settings' storage and in one JSON file a cell beside it.

    The files are a second copy: a study that is lost or damaged is rebuilt from them. A task is done once a trial with
    its cell and at least as many epochs has ended; a trial of fewer epochs than the recipe's counts as pruned.
    """

    def __init__(self, settings: Settings, policy: str, storage: optuna.storages.RDBStorage):
        self.settings = settings
        self.policy = policy
        self.storage = storage
        self.study = optuna.create_study(
            storage=storage,
            study_name=f"{settings.profile}-{policy}",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )

    def begin(self, provenance: dict[str, Any], say: Callable[[str], None] = print) -> None:
        """Tie the study to what its results depend on, and take in the results that it does not know yet.

        Raises CourseError, naming the difference, where the study was begun with anything else.
        """
        begun = self.study.user_attrs.get("provenance")
        if begun is None:
            self.study.set_user_attr("provenance", provenance)
        elif begun != provenance:
            changed = [name for name in provenance if begun.get(name) != provenance[name]]
            raise CourseError(
                f"The study in {describe_storage(self.settings)} was begun with another"
                f" {' and another '.join(changed)}; its cells cannot be mixed with new ones. Change that back, move the"
                " study aside, or set COURSE_BUILD to a new folder."
            )
        known = self.records()
        for path in sorted(self.settings.folder.glob(f"records/{self.policy}-*.json")):
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                record, same = kept["record"], kept["provenance"] == provenance
                cell, epochs = (record["learning_rate"], record["batch_size"]), len(record["epochs"])
            except (ValueError, KeyError, TypeError):
                say(f"The record {path} is damaged; it is now {set_aside(path).name}.")
                continue
            if same and epochs > reached(known, cell):
                self._add_finished(cell, record)

    def look(self) -> tuple[dict[Cell, dict[str, Any]], dict[Cell, dict[int, float]]]:
        """The longest record of every cell that has one, and the accuracies by epoch of the cells in training."""
        records: dict[Cell, dict[str, Any]] = {}
        running = {}
        for trial in self._trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            if "cell" not in trial.user_attrs:
                continue
            cell = tuple(trial.user_attrs["cell"])
            if trial.state == TrialState.RUNNING:
                running[cell] = trial.intermediate_values
            elif len(trial.user_attrs["record"]["epochs"]) > reached(records, cell):
                records[cell] = trial.user_attrs["record"]
        return records, running

    def records(self) -> dict[Cell, dict[str, Any]]:
        return self.look()[0]

    def unfinished(self, tasks: list[Task]) -> list[Task]:
        records = self.records()
        return [task for task in tasks if reached(records, task.cell) < task.until]

    def waiting(self) -> int:
        return len(self._trials(TrialState.WAITING))

    def reclaim(self) -> None:
        """Give up the trials of workers that have died, so that their cells can be handed out again.

        Call it while no worker of this build folder runs. On other machines, a worker has died when it has given no
        sign of life for some minutes.
        """
        for trial in self._trials(TrialState.RUNNING):
            owner = trial.user_attrs.get("owner")
            silent = owner is None and (datetime.now() - trial.datetime_start).total_seconds() > SILENCE
            if self.settings.storage is None or owner == self._owner() or silent:
                self._tell(trial.number, TrialState.FAIL)
        with _no_warnings():
            optuna.storages.fail_stale_trials(self.study)

    def hand_out(self, tasks: list[Task]) -> None:
        """Queue the tasks that are neither done, nor waiting, nor being trained."""
        live = {self._task(trial) for trial in self._trials(TrialState.WAITING, TrialState.RUNNING)}
        for task in self.unfinished(tasks):
            if task not in live:
                self.study.enqueue_trial(
                    _parameters(task.cell), user_attrs={"cell": task.cell, "until": task.until, "owner": None}
                )

    @contextmanager
    def claim(self) -> Iterator[tuple[optuna.Trial, Task] | None]:
        """Take a waiting task, which no other worker then gets; None when there is none left.

        While the block runs, the trial shows signs of life. Where it is left with an exception, the task is not done.
        """
        # Under SQLite, which locks no rows, Optuna may give a waiting trial to two processes that ask at once.
        with filelock.FileLock(self.settings.folder / "claim.lock"):
            trial = self._take()
        if trial is None:
            yield None
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._show_life, args=(trial._trial_id, stop), daemon=True)
        thread.start()
        try:
            yield trial, self._task(trial)
        finally:
            stop.set()
            thread.join()

    def finish(self, trial: optuna.Trial, task: Task, record: dict[str, Any]) -> bool:
        """Record a task as done; False, or UpdateFinishedTrialError, where another worker has been given it since."""
        path = self.settings.folder / "records" / f"{self.policy}-{task.cell[0]:g}-{task.cell[1]}.json"
        kept = {"provenance": self.study.user_attrs["provenance"], "record": record}
        write_atomically(path, json.dumps(kept, indent=1) + "\n")
        trial.set_user_attr("record", record)
        if task.until == self.settings.epochs:
            return self._tell(trial.number, TrialState.COMPLETE, record["validation_accuracy"])
        return self._tell(trial.number, TrialState.PRUNED)

    def _take(self) -> optuna.Trial | None:
        while self.waiting():
            with _no_warnings():
                trial = self.study.ask()
            if "cell" not in trial.user_attrs:
                self._tell(trial.number, TrialState.FAIL)  # Another worker was faster, and Optuna made up a trial.
                return None
            trial.set_user_attr("owner", self._owner())
            self.storage.record_heartbeat(trial._trial_id)
            task = self._task(trial)
            # Two machines may have queued the same task at the same moment: the first of its trials counts.
            earlier = [
                other for other in self._trials(TrialState.WAITING, TrialState.RUNNING) if self._task(other) == task
            ]
            if any(other.number < trial.number for other in earlier) or not self.unfinished([task]):
                self._tell(trial.number, TrialState.FAIL)
                continue
            for name, choices in _choices(self.settings).items():
                trial.suggest_categorical(name, choices)
            return trial
        return None

    def _add_finished(self, cell: Cell, record: dict[str, Any]) -> None:
        done = len(record["epochs"]) == self.settings.epochs
        self.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if done else TrialState.PRUNED,
                value=record["validation_accuracy"] if done else None,
                params=_parameters(cell),
                distributions={
                    name: CategoricalDistribution(choices) for name, choices in _choices(self.settings).items()
                },
                intermediate_values={epoch["epoch"]: epoch["validation_accuracy"] for epoch in record["epochs"]},
                user_attrs={"cell": cell, "until": len(record["epochs"]), "record": record},
            )
        )

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> bool:
        try:
            self.study.tell(number, value, state=state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False  # Another process has ended this trial.
        return True

    def _show_life(self, trial_id: int, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT):
            with suppress(optuna.exceptions.StorageInternalError):  # The next one may get through.
                self.storage.record_heartbeat(trial_id)

    def _task(self, trial: FrozenTrial | optuna.Trial) -> Task | None:
        attributes = trial.user_attrs
        return Task(tuple(attributes["cell"]), attributes["until"]) if "cell" in attributes else None

    def _owner(self) -> str:
        return f"{platform.node()}:{self.settings.folder}"


def reached(records: dict[Cell, dict[str, Any]], cell: Cell) -> int:
    """The epochs that a cell has been trained for, by the records."""
    return len(records[cell]["epochs"]) if cell in records else 0


def _parameters(cell: Cell) -> dict[str, Any]:
    return {"learning_rate": cell[0], "per_device_train_batch_size": cell[1]}


def _choices(settings: Settings) -> dict[str, tuple]:
    return {"learning_rate": settings.learning_rates, "per_device_train_batch_size": settings.batch_sizes}


def describe_storage(settings: Settings) -> str:
    """Where the study is, without user and password."""
    return settings.storage.split("@")[-1] if settings.storage else str(settings.folder / "study.db")


def open_storage(settings: Settings, say: Callable[[str], None] = print) -> optuna.storages.RDBStorage:
    """Connect to the study's database, by default a SQLite file in the build folder, made where there is none.

    A damaged SQLite file is set aside under another name. Raises CourseError where a server cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = settings.folder / "study.db"
    if settings.storage is None and path.exists() and not _is_whole(path):
        aside = set_aside(path)
        say(f"The study {path} is damaged; it is now {aside.name}. Finished cells are taken from their own records.")
    # Named in full, for SQLAlchemy's default driver depends on its version.
    url = (settings.storage or f"sqlite:///{path}").replace("postgresql://", "postgresql+psycopg://", 1)
    options = {} if settings.storage else {"connect_args": {"timeout": 120}}
    try:
        with _no_warnings():
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=options | {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT,
                grace_period=SILENCE,
            )
    except ImportError as error:
        raise CourseError(
            f"The storage's driver is missing ({error}). For PostgreSQL: pip install 'psycopg[binary]'."
        ) from error
    except Exception as error:  # SQLAlchemy's and the drivers' own kinds differ from version to version.
        raise CourseError(
            f"The study's database {describe_storage(settings)} cannot be opened: {str(error).splitlines()[0]}"
            " Check that it is there and may be written."
        ) from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Optuna's remarks that heartbeats are experimental and meant for `Study.optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_whole(path: Path) -> bool:
    try:
        with sqlite3.connect(path, timeout=120) as connection:
            return connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.OperationalError:
        return True  # Busy or not readable, which is no damage.
    except sqlite3.DatabaseError:
        return False
