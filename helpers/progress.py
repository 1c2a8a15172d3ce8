"""Progress of a training: the finished runs, how far the others are, and how long they will take."""

import html
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from helpers.report import list_values, list_varied
from helpers.settings import Run

# The colour map cividis, suited to all kinds of colour blindness, from guessing (0.5) to always right (1).
SHADES = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
STOP_NOTE = "Stop at any time with the notebook's stop button (■). Finished work is kept; rerun the cell to continue."
LEGEND = "accuracy from dark (0.5, guessing) to bright (1) · ★ best so far · ▸ 2/4: 2 of 4 epochs are trained"
CELL = ("learning_rate", "batch_size")
# All cells have the same size and border width, whatever they show: nothing moves when a figure or a star appears.
BOX = "min-width: 4.6em; padding: 0.1em; text-align: center; border: 2px"


@dataclass(frozen=True)
class State:
    """How far a run is: epochs trained and wanted, its accuracy (if finished), and whether it is being trained now."""

    run: Run
    done: float
    until: float
    accuracy: float | None = None
    running: bool = False

    @property
    def finished(self) -> bool:
        return self.done >= self.until


class Progress:
    """Plain ASCII text: how much there is to do, then one line per finished run; a terminal also gets a bar below."""

    def __init__(self) -> None:
        self.known: dict[Run, State] = {}
        # The times of the first look at the work and of the first that saw progress; the reviews trained until then.
        self.clock: list[tuple[float, float]] = []
        look = {"bar_format": "{percentage:3.0f}%|{bar:16}| {desc}", "leave": False}
        self.bar = tqdm(file=sys.stdout, disable=is_plain() or None, **look)  # None: unless it is a terminal.

    def say(self, line: str) -> None:
        with tqdm.external_write_mode(file=sys.stdout):
            print(line, flush=True)

    def show(self, states: list[State]) -> None:
        """Show how far the runs are; call it once before any training, and then about once a second.

        The runs of earlier calls stay visible: `--prune` continues with some of them only.
        """
        before, known = self.known, self.known | {each.run: each for each in states}
        if not before and all(each.finished for each in states):
            return  # Nothing to train, so nothing to show.
        self.known = known
        trained, _ = self.count()
        if not self.clock or len(self.clock) == 1 and trained > self.clock[0][1]:
            self.clock.append((time.monotonic(), trained))
        lines = [] if before else [self.describe_status()]
        ended = [each for each in states if each.finished and before.get(each.run, each).done < each.until]
        count, fields = sum(each.finished for each in known.values()), list_varied(map(vars, known)) or CELL
        for place, each in enumerate(ended, count - len(ended) + 1):
            stopped = f" after {each.until:g} of {each.run.epochs:g} epochs" if each.until < each.run.epochs else ""
            name, number = name_run(each.run, fields), f"{place:>{len(str(len(known)))}}/{len(known)}"
            lines.append(f"[{number}] {name}: accuracy {each.accuracy:.3f}{stopped}")
        self.draw(lines)

    def draw(self, lines: list[str]) -> None:
        """Print the new lines, and update the bar or the picture, if there is one."""
        for line in lines:
            self.say(line)
        self.bar.n, self.bar.total = self.count()
        self.bar.set_description_str(self.describe_status())

    def close(self) -> None:
        """Tidy up after the training has ended or was stopped."""
        self.bar.clear()

    def count(self) -> tuple[float, float]:
        """The reviews trained and wanted, epoch by epoch; a run without a number of reviews counts as the largest."""
        most = max(run.reviews or 0 for run in self.known) or 1
        work = [(run.reviews or most, each) for run, each in self.known.items()]
        return sum(reviews * each.done for reviews, each in work), sum(reviews * each.until for reviews, each in work)

    def describe_status(self) -> str:
        """How many runs and epochs are done, the time left, and each policy's best accuracy."""
        states = self.known.values()
        finished = sum(each.finished for each in states)
        done, until = sum(each.done for each in states), sum(each.until for each in states)
        parts = [f"{finished} of {len(states)} runs", f"{int(done) if done < until else done:g} of {until:g} epochs"]
        parts += [self.describe_left()] if done < until else []
        parts += [f"best {best.run.policy} {best.accuracy:.3f}" for best in find_best(states)]
        return ", ".join(parts)

    def describe_left(self) -> str:
        """The time left, estimated from the reviews trained since progress was first seen."""
        started, before = self.clock[-1]
        trained, wanted = self.count()
        if trained <= before:
            return "the first figures come soon"
        seconds = (wanted - trained) * (time.monotonic() - started) / (trained - before)
        return f"about {describe_time(seconds)} left" if seconds >= 5 else "nearly done"


class NotebookProgress(Progress):
    """Instead of lines, a single output that is updated: a table that fills as runs finish, a bar, and a text."""

    output = None

    def draw(self, lines: list[str], note: str = STOP_NOTE) -> None:
        from IPython.display import display

        (done, wanted), status = self.count(), self.describe_status()
        bar = f'<progress style="width: 100%" value="{done}" max="{wanted}"></progress>'
        text = "<br>".join([LEGEND, bar, html.escape(status), note])
        picture = {"text/html": f"{render(self.known.values())}<div>{text}</div>", "text/plain": status}
        if self.output:
            self.output.update(picture, raw=True)
        else:
            self.output = display(picture, raw=True, display_id=True)

    def close(self) -> None:
        if self.output:
            self.known = {run: replace(state, running=False) for run, state in self.known.items()}
            self.draw([], note="")  # What has stopped it, its error says.


def name_run(run: Run, fields: Iterable[str]) -> str:
    """The run's policy, and its values of these fields."""
    return ", ".join([run.policy, *list_values(vars(run), fields)])


def find_best(states: Iterable[State]) -> list[State]:
    """For each policy, of the runs trained longest, the one with the highest accuracy; the first in case of a tie."""
    ended = [state for state in states if state.finished]
    policies = dict.fromkeys(state.run.policy for state in ended)
    groups = [[state for state in ended if state.run.policy == policy] for policy in policies]
    return [max(group, key=lambda state: (state.done, state.accuracy)) for group in groups]


def render(states: Iterable[State]) -> str:
    """The states as an HTML table: one column per seed if the runs have several, otherwise one per batch size."""
    states = list(states)
    varied, best = list_varied(vars(state.run) for state in states), find_best(states)
    column = "seed" if "seed" in varied else "batch_size"
    fields = [name for name in varied or CELL if name != column]
    columns = sorted({getattr(state.run, column) for state in states})
    rows: dict[str, dict[Any, str]] = {}
    for state in states:
        row = rows.setdefault(html.escape(name_run(state.run, fields)), dict.fromkeys(columns, "<td></td>"))
        row[getattr(state.run, column)] = _draw_cell(state, state in best)
    lines = ["".join(f"<th>{head}</th>" for head in (column.replace("_", " "), *columns))]
    lines += [f"<th>{name}</th>{''.join(row.values())}" for name, row in rows.items()]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="border-collapse: separate; border-spacing: 2px; line-height: 1.4">{body}</table>'


def _draw_cell(state: State, is_best: bool) -> str:
    """A table cell; a finished run has its own text and background colours."""
    if state.finished:
        shade = min(max(int((state.accuracy - 0.5) * 2 * len(SHADES)), 0), len(SHADES) - 1)
        line, ink = "#d55e00" if is_best else "transparent", "#000000" if shade > 4 else "#ffffff"
        text, look = f"{state.accuracy:.3f}", f"solid {line}; background: {SHADES[shade]}; color: {ink}"
        text = f"★ {text}" if is_best else text
    else:
        epochs = f"{int(state.done)}/{state.until:g}"
        text, look = (f"▸ {epochs}", "dashed") if state.running else (epochs if state.done else "·", "dotted #8c8c8c")
    return f'<td style="{BOX} {look}">{text}</td>'


def is_plain() -> bool:
    """Whether plain text is requested, by COURSE_PROGRESS=plain or by CI."""
    return os.environ.get("COURSE_PROGRESS") == "plain" or bool(os.environ.get("CI"))


def choose_progress() -> Progress:
    """A single updated output in a notebook, otherwise plain text."""
    return NotebookProgress() if "ipykernel" in sys.modules and not is_plain() else Progress()


def interact(draw: Callable[..., dict[str, str]], height: str, **controls: Any) -> None:
    """Show the MIME bundle that `draw` returns for the values of the controls (widgets); redraw after every change.

    Pages without a kernel show the first bundle; if plain text is requested, it is the only output: the text form of a
    widget differs from version to version, and is of no use to a reader.
    """
    from IPython.display import display

    bundle = draw(**{name: control.value for name, control in controls.items()})
    if not is_plain():
        import ipywidgets

        ready = False

        def redraw(**values: Any) -> None:
            if ready:
                display(draw(**values), raw=True)

        # ipywidgets 8 and newer draw at once; in notebooks executed by a program, the first bundle would appear twice.
        box, ready = ipywidgets.interactive(redraw, **controls), True
        box.out.layout.min_height = height  # The page below must not jump on every redraw.
        box.out.outputs = ({"output_type": "display_data", "data": bundle, "metadata": {}},)
        view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
        bundle = bundle | {"application/vnd.jupyter.widget-view+json": view}
    display(bundle, raw=True)


def describe_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
