"""What a running sweep shows: a line a finished cell, how far it is, and how long it will take."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from helpers.study import Cell, CellQueue, Task, reached


class Progress:
    """Plain text, for logs, nbval and CI: the lines alone."""

    def __init__(self, say: Callable[[str], None] = print):
        self.say = say

    def show(self, done: int, total: int, status: str) -> None:
        """Show that `done` of `total` epochs are done, and a line about it."""

    def close(self) -> None:
        """The sweep has ended."""


class TerminalProgress(Progress):
    """A bar that stays below the lines."""

    def __init__(self):
        self.bar = tqdm(bar_format="{percentage:3.0f}%|{bar:16}| {desc}", file=sys.stdout, leave=False)
        super().__init__(lambda line: self.bar.write(line, file=sys.stdout))

    def show(self, done, total, status):
        self.bar.total, self.bar.n = total, done
        self.bar.set_description_str(status)

    def close(self):
        self.bar.close()


class NotebookProgress(Progress):
    """A bar and a line of text, as one widget below the lines that come first; none where nothing is to be trained."""

    def __init__(self):
        import ipywidgets

        self.bar = ipywidgets.IntProgress(layout={"width": "auto"})
        self.text = ipywidgets.HTML()  # A Label would cut off what is wider than the window.
        self.box, self.displayed = ipywidgets.VBox([self.bar, self.text]), False
        super().__init__(lambda line: print(line, flush=True))

    def show(self, done, total, status):
        self.bar.max, self.bar.value, self.text.value = total, done, status
        if not self.displayed:
            from IPython.display import display

            display(self.box)
            self.displayed = True

    def close(self):
        self.bar.bar_style = "success" if self.bar.value == self.bar.max else "warning"


def choose_progress() -> Progress:
    """A widget in a notebook, a bar in a terminal, else plain text; COURSE_PROGRESS=plain asks for plain text."""
    if os.environ.get("COURSE_PROGRESS") == "plain" or os.environ.get("CI"):
        return Progress()
    if "ipykernel" in sys.modules:
        return NotebookProgress()
    return TerminalProgress() if sys.stdout.isatty() else Progress()


class Scoreboard:
    """Follows the workers of a sweep through the queues of its policies.

    `tasks` are what each policy still has to reach, `costs` the estimated seconds of an epoch of each cell, `examples`
    the training reviews of an epoch.
    """

    def __init__(
        self,
        queues: dict[str, CellQueue],
        tasks: dict[str, list[Task]],
        costs: dict[Cell, float],
        examples: int,
        progress: Progress,
    ):
        self.queues, self.tasks, self.costs, self.examples, self.progress = queues, tasks, costs, examples, progress
        self.started = time.monotonic()
        looks = {policy: queue.look() for policy, queue in queues.items()}
        self.before = self._count_epochs(looks)
        self.told = set(self._finished(looks))

    def update(self) -> dict[str, dict[Cell, dict[str, Any]]]:
        """Tell the cells that were finished since the last call, show how far the sweep is, and return the records."""
        looks = {policy: queue.look() for policy, queue in self.queues.items()}
        for policy, cell in self._finished(looks):
            if (policy, cell) not in self.told:
                self.told.add((policy, cell))
                total = sum(map(len, self.tasks.values()))
                self.progress.say(describe_cell(policy, looks[policy][0][cell], len(self.told), total))
        epochs = self._count_epochs(looks)
        wanted = {(policy, task.cell): task.until for policy, tasks in self.tasks.items() for task in tasks}
        done = sum(min(epochs.get(key, 0), until) for key, until in wanted.items())
        total = sum(wanted.values())
        status = [f"{len(self.told)} of {len(wanted)} cells, {done} of {total} epochs"]
        new = {key: count - self.before.get(key, 0) for key, count in epochs.items()}
        if any(new.values()):
            elapsed = time.monotonic() - self.started
            left = sum((until - min(epochs.get(key, 0), until)) * self.costs[key[1]] for key, until in wanted.items())
            spent = sum(count * self.costs[key[1]] for key, count in new.items())
            status.append(f"{self.examples * sum(new.values()) / elapsed:,.0f} examples/s")
            status.append(f"about {describe_time(left * elapsed / spent)} left")
        for policy, (records, running) in looks.items():
            accuracies = [record["validation_accuracy"] for record in records.values()]
            accuracies += [accuracy for values in running.values() for accuracy in values.values()]
            status += [f"best {policy} {max(accuracies):.3f}"] if accuracies else []
        self.progress.show(done, total, " · ".join(status))
        return {policy: records for policy, (records, _) in looks.items()}

    def _finished(self, looks) -> list[tuple[str, Cell]]:
        return [
            (policy, task.cell)
            for policy, (records, _) in looks.items()
            for task in self.tasks[policy]
            if reached(records, task.cell) >= task.until
        ]

    def _count_epochs(self, looks) -> dict[tuple[str, Cell], int]:
        counts: dict[tuple[str, Cell], int] = {}
        for policy, (records, running) in looks.items():
            for cell in records.keys() | running.keys():
                counts[policy, cell] = max(reached(records, cell), len(running.get(cell, ())))
        return counts


def describe_cell(policy: str, record: dict[str, Any], done: int, total: int) -> str:
    cell = f"learning rate {record['learning_rate']:g}, batch {record['batch_size']:>3}"
    accuracy = f"accuracy {record['validation_accuracy']:.3f}"
    return f"[{done:>2}/{total}] {policy:<11} {cell}: {accuracy} ({describe_time(record['seconds'])})"


def describe_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
