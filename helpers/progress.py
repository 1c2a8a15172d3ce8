"""What a running sweep shows: a line a finished cell, how far it is, and how long it will take."""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from helpers.report import format_rate
from helpers.study import Cell, CellQueue, Task, reached

# The colour map cividis, which is the same with any kind of colour blindness, from guessing (0.5) to always right (1).
SHADES = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
STOP_NOTE = (
    "Stop at any time, with this button or the notebook's own (■): what is finished is kept, and running the cell again"
    " goes on from there."
)


@dataclass(frozen=True)
class CellState:
    """How far a cell is: epochs trained and wanted, the accuracy once it is finished, and whether a worker has it."""

    done: int
    until: int
    accuracy: float | None = None
    running: bool = False


Grids = dict[str, dict[Cell, CellState]]  # by policy


class Progress:
    """Plain text, for logs, nbval and CI: the lines alone."""

    def __init__(self, say: Callable[[str], None] = print):
        self.say = say

    def tell(self, line: str) -> None:
        """Tell that a cell is finished."""
        self.say(line)

    def show(self, done: int, total: int, status: str, grids: Grids) -> None:
        """Show that `done` of `total` epochs are done, a line about it, and how far every cell is.

        Raises KeyboardInterrupt where the user has asked to stop.
        """

    def close(self) -> None:
        """The sweep has ended."""


class TerminalProgress(Progress):
    """A bar that stays below the lines."""

    def __init__(self):
        self.bar = tqdm(bar_format="{percentage:3.0f}%|{bar:16}| {desc}", file=sys.stdout, leave=False)
        super().__init__(lambda line: self.bar.write(line, file=sys.stdout))

    def show(self, done, total, status, grids):
        self.bar.total, self.bar.n = total, done
        self.bar.set_description_str(status)

    def close(self):
        self.bar.close()


class NotebookProgress(Progress):
    """One widget: a grid for each policy that fills as its cells finish, a bar, a line of text and a Stop button.

    The grids tell what the lines for finished cells would; the last line of text is also printed beneath the widget.
    """

    def __init__(self):
        import ipywidgets

        self.grid = ipywidgets.HTML()
        self.bar = ipywidgets.IntProgress(layout={"width": "auto"})
        self.text = ipywidgets.HTML()  # A Label would cut off what is wider than the window.
        self.stop = ipywidgets.Button(description="Stop", icon="stop", tooltip=STOP_NOTE)
        self.note = ipywidgets.HTML(STOP_NOTE)
        self.box = ipywidgets.VBox([self.grid, self.bar, self.text, self.stop, self.note])
        self.displayed, self.grids, self.stopped = False, {}, threading.Event()
        # Some kernels run this in a thread of its own while the sweep keeps the main thread busy.
        self.stop.on_click(lambda button: self.stopped.set())
        super().__init__(lambda line: print(line, flush=True))

    def tell(self, line):
        """Say nothing: the grid shows it."""

    def show(self, done, total, status, grids):
        self.bar.max, self.bar.value, self.text.value, self.grids = total, done, status, grids
        self.grid.value = render_grids(grids)
        if not self.displayed:
            from IPython.display import display

            self.displayed = True
            display(self.box)
        if self.stopped.is_set() or is_click_waiting(self.stop):
            raise KeyboardInterrupt

    def close(self):
        complete = self.bar.value == self.bar.max
        self.bar.bar_style = "success" if complete else "warning"
        self.stop.layout.display = "none"
        self.note.value = (
            "" if complete else "Stopped. What is finished is kept: run the cell again to go on from there."
        )
        idle = {
            policy: {cell: replace(state, running=False) for cell, state in states.items()}
            for policy, states in self.grids.items()
        }
        self.grid.value = render_grids(idle)
        if self.displayed:
            self.say(self.text.value)


def is_click_waiting(button) -> bool:
    """Whether a click on the ipywidgets button has reached the kernel since the last call, while a cell runs.

    The kernel would see it when the cell has ended. The waiting messages are looked at and passed on, in their
    order, to what reads them later. Call it in the main thread; where the kernel is of an unknown kind, it says False.
    """
    from IPython import get_ipython

    stream = _find_stream(getattr(get_ipython(), "kernel", None))
    read = getattr(stream, "_recv_callback", None)
    if read is None or threading.current_thread() is not threading.main_thread():
        return False
    found = []

    def look(message):
        frames = [bytes(frame) for frame in message]
        found.append(any(button.model_id.encode() in frame and b'"click"' in frame for frame in frames))
        return read(message)

    stream.on_recv(look, copy=False)
    try:
        stream.flush()
    finally:
        stream.on_recv(read, copy=False)
    return any(found)


def _find_stream(kernel):
    """The stream of shell messages in the kernel's main thread: ipykernel 7 has another thread that feeds it."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is None:
        return getattr(kernel, "shell_stream", None)
    return getattr(getattr(thread.manager, "_shell_channel_to_main", None), "to_stream", None)


def render_grids(grids: Grids) -> str:
    """The grids as HTML tables, learning rates by batch sizes; a finished cell has its own ink and ground."""
    tables = "".join(_render_grid(policy, states) for policy, states in grids.items())
    legend = (
        "validation accuracy, from dark (0.5, guessing) to bright (1) · ★ and a frame: the policy's best so far"
        " · ▸ 2/4: in training, 2 of 4 epochs done"
    )
    return (
        f'<div style="display: flex; flex-wrap: wrap; gap: 0.5em 2em; line-height: 1.4">{tables}</div>'
        f'<div style="line-height: 1.4">{legend}</div>'
    )


def _render_grid(policy: str, states: dict[Cell, CellState]) -> str:
    rates = sorted({rate for rate, _ in states}, reverse=True)
    sizes = sorted({size for _, size in states})
    best = max((state.accuracy for state in states.values() if state.accuracy is not None), default=None)
    head = "".join(f'<th scope="col" style="padding: 0.1em 0.4em">{size}</th>' for size in sizes)
    rows = "".join(
        f'<tr><th scope="row" style="padding: 0.1em 0.4em; text-align: right">{format_rate(rate)}</th>'
        + "".join(_render_cell(states.get((rate, size)), best) for size in sizes)
        + "</tr>"
        for rate in rates
    )
    caption = f"<b>{policy}</b>, learning rate by batch size"
    return (
        '<table style="border-collapse: separate; border-spacing: 2px">'
        f'<caption style="text-align: left; color: inherit; padding: 0.2em 0.4em">{caption}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _render_cell(state: CellState | None, best: float | None) -> str:
    style, text = "min-width: 4em; padding: 0.1em 0.2em; text-align: center; border: 3px solid transparent", ""
    if state is not None and state.accuracy is not None:
        ground = SHADES[min(max(int((state.accuracy - 0.5) * 2 * len(SHADES)), 0), len(SHADES) - 1)]
        ink = "#000000" if SHADES.index(ground) > 4 else "#ffffff"
        text = f"{state.accuracy:.3f}"
        style += f"; background: {ground}; color: {ink}"
        if state.accuracy == best:
            text, style = f"★ {text}", f"{style}; font-weight: bold; border-color: #d55e00"
    elif state is not None and state.running:
        text, style = f"▸ {state.done}/{state.until}", f"{style}; border: 1px dashed"
    elif state is not None:
        text, style = (f"{state.done}/{state.until}" if state.done else "·"), f"{style}; border: 1px dotted"
    return f'<td style="{style}">{text}</td>'


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
                self.progress.tell(describe_cell(policy, looks[policy][0][cell], len(self.told), total))
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
        self.progress.show(done, total, " · ".join(status), self._describe_cells(looks, epochs))
        return {policy: records for policy, (records, _) in looks.items()}

    def _finished(self, looks) -> list[tuple[str, Cell]]:
        return [
            (policy, task.cell)
            for policy, (records, _) in looks.items()
            for task in self.tasks[policy]
            if reached(records, task.cell) >= task.until
        ]

    def _describe_cells(self, looks, epochs: dict[tuple[str, Cell], int]) -> Grids:
        grids: Grids = {}
        for policy, (records, running) in looks.items():
            wanted = {cell: reached(records, cell) for cell in records}
            wanted |= {task.cell: task.until for task in self.tasks[policy]}
            grids[policy] = {
                cell: CellState(
                    epochs.get((policy, cell), 0),
                    until,
                    records[cell]["validation_accuracy"] if reached(records, cell) >= until else None,
                    cell in running,
                )
                for cell, until in wanted.items()
            }
        return grids

    def _count_epochs(self, looks) -> dict[tuple[str, Cell], int]:
        counts: dict[tuple[str, Cell], int] = {}
        for policy, (records, running) in looks.items():
            for cell in records.keys() | running.keys():
                counts[policy, cell] = max(reached(records, cell), len(running.get(cell, ())))
        return counts


def describe_cell(policy: str, record: dict[str, Any], done: int, total: int) -> str:
    cell = f"learning rate {format_rate(record['learning_rate'])}, batch {record['batch_size']:>3}"
    accuracy = f"accuracy {record['validation_accuracy']:.3f}"
    return f"[{done:>2}/{total}] {policy:<11} {cell}: {accuracy} ({describe_time(record['seconds'])})"


def describe_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
