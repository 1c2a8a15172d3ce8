"""What a running training shows: the finished runs, how far it is, and how long it will take."""

import html
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from tqdm import tqdm

from helpers.report import describe_fields, format_rate, list_varied

# The colour map cividis, which is the same with any kind of colour blindness, from guessing (0.5) to always right (1).
SHADES = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
STOP_NOTE = "Stop at any time with the notebook's own button (■): finished work is kept, and running the cell goes on."
STOPPED_NOTE = "Stopped. What is finished is kept: run the cell again to go on from there."
LEGEND = "accuracy from dark (0.5, guessing) to bright (1) · ★ best so far · ▸ 2/4: 2 of 4 epochs are trained"
CELL = ("learning_rate", "batch_size")
RULES = [
    {"selector": "", "props": "border-collapse: separate; border-spacing: 2px"},
    {"selector": "caption", "props": "text-align: left; color: inherit; padding: 0.2em 0.4em"},
    {"selector": "th", "props": "padding: 0.1em 0.4em; text-align: right"},
    {"selector": "th.col_heading", "props": "text-align: center"},
]
# Every cell has one size and a border of one width, whatever it shows: nothing moves when a figure or a star appears.
BOX = "min-width: 4.6em; padding: 0.1em; text-align: center; border: 2px "


@dataclass(frozen=True)
class State:
    """How far a run (its fields, as `settings.Run` has them) is: epochs trained and wanted, the accuracy measured."""

    run: dict[str, Any]
    done: float
    until: float
    accuracy: float | None = None
    running: bool = False

    @property
    def finished(self) -> bool:
        return self.done >= self.until

    @property
    def key(self) -> frozenset:
        return frozenset(self.run.items())


class Progress:
    """Plain text, for logs, nbval and CI: how much there is to do, then a line a finished run; all in ASCII."""

    def __init__(self) -> None:
        self.known: dict[frozenset, State] = {}
        self.first: dict[frozenset, float] = {}
        self.clock: tuple[float, float] | None = None  # when work was first seen, and how much of it

    def say(self, line: str) -> None:
        print(line, flush=True)

    def show(self, states: list[State]) -> None:
        """Show how far the runs are; to be called at once, with nothing done, and then about once a second.

        The runs of earlier calls stay in the picture: `--prune` goes on with a part of them.
        """
        before = self.known
        ended = [each for each in states if each.finished and before.get(each.key, each).done < each.until]
        self.known = before | {each.key: each for each in states}
        self.first = {each.key: each.done for each in states} | self.first
        if not before and all(each.finished for each in states):
            self.known = {}  # There is nothing to train, so there is nothing to see.
            return
        status = self.describe_status(states)
        if not before:
            self.tell(status)
        count = sum(each.finished for each in states) - len(ended)
        for place, state in enumerate(ended, count + 1):
            self.tell(f"[{place:>{len(str(len(states)))}}/{len(states)}] {self.describe(state)}")
        self.draw(states, status)

    def tell(self, line: str) -> None:
        """Say a line that a picture would tell as well."""
        self.say(line)

    def draw(self, states: list[State], status: str) -> None:
        """Renew the picture, where there is one."""

    def close(self) -> None:
        """The training has ended, or was stopped."""

    def describe(self, state: State) -> str:
        fields = list_varied(each.run for each in self.known.values()) or CELL
        name = ", ".join(filter(None, (state.run["policy"], describe_fields(state.run, fields))))
        reached = "no accuracy" if state.accuracy is None else f"accuracy {state.accuracy:.3f}"
        epochs = state.run.get("epochs", state.until)
        return f"{name}: {reached}" + (f" after {state.until:g} of {epochs:g} epochs" if state.until < epochs else "")

    def describe_status(self, states: list[State]) -> str:
        """How many runs and epochs are done, the time left, and each policy's best accuracy."""
        until, done = measure(states)
        parts = [f"{sum(each.finished for each in states)} of {len(states)} runs", f"{int(done)} of {until:g} epochs"]
        if left := self.describe_left(states):
            parts.append(left)
        elif done < until and self.clock is None:
            parts.append("the first figures come soon")
        best = [(run.run["policy"], run.accuracy) for run in map(find_best, by_policy(self.known.values())) if run]
        return ", ".join(parts + [f"best {policy} {accuracy:.3f}" for policy, accuracy in best])

    def describe_left(self, states: list[State]) -> str:
        """The time left, from the reviews trained since the first of them; empty while it is not known."""
        most = max((each.run.get("reviews") or 0 for each in states), default=0) or 1

        def weigh(state: State, epochs: float) -> float:
            return max(0.0, epochs) * (state.run.get("reviews") or most)

        now = time.monotonic()
        trained = sum(weigh(each, each.done - self.first[each.key]) for each in self.known.values())
        left = sum(weigh(each, each.until - each.done) for each in states)
        if self.clock is None and trained:
            self.clock = now, trained
        if self.clock is None or trained <= self.clock[1] or not left:
            return ""
        seconds = left * (now - self.clock[0]) / (trained - self.clock[1])
        return f"about {describe_time(seconds)} left" if seconds >= 5 else "nearly done"


class TerminalProgress(Progress):
    """A bar that stays below the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = tqdm(bar_format="{percentage:3.0f}%|{bar:16}| {desc}", file=sys.stdout, leave=False)

    def say(self, line: str) -> None:
        self.bar.write(line, file=sys.stdout)

    def draw(self, states: list[State], status: str) -> None:
        self.bar.total, self.bar.n = measure(states)
        self.bar.set_description_str(status)

    def close(self) -> None:
        self.bar.close()


class NotebookProgress(Progress):
    """One widget: grids that fill as the runs finish, a bar, and a line of text, which is printed when all has ended.

    The grids tell what the lines for finished runs would.
    """

    def __init__(self) -> None:
        import ipywidgets

        super().__init__()
        self.grid = ipywidgets.HTML()
        self.bar = ipywidgets.FloatProgress(layout={"width": "auto"})
        self.text = ipywidgets.HTML()  # A Label would cut off what is wider than the window.
        self.note = ipywidgets.HTML(STOP_NOTE)
        self.box = ipywidgets.VBox([self.grid, self.bar, self.text, self.note])
        self.displayed = False

    def tell(self, line: str) -> None:
        """Say nothing: the widget shows it."""

    def draw(self, states: list[State], status: str) -> None:
        self.bar.max, self.bar.value = measure(states)
        self.text.value, self.grid.value = html.escape(status), render(self.known.values())
        if not self.displayed:
            from IPython.display import display

            self.displayed = True
            display(self.box)

    def close(self) -> None:
        if not self.displayed:
            return
        complete = all(state.finished for state in self.known.values())
        self.bar.bar_style = "success" if complete else "warning"
        self.grid.value = render(replace(state, running=False) for state in self.known.values())
        self.say(html.unescape(self.text.value))  # It stays where the widget is not kept, and is in one place only.
        self.text.value, self.note.value = "", "" if complete else STOPPED_NOTE
        self.displayed = False


def measure(states: list[State]) -> tuple[float, float]:
    """The epochs that are wanted, and those that are done."""
    return sum(each.until for each in states), sum(min(each.done, each.until) for each in states)


def by_policy(states: Iterable[State]) -> list[list[State]]:
    found: dict[str, list[State]] = {}
    for state in states:
        found.setdefault(state.run["policy"], []).append(state)
    return list(found.values())


def find_best(states: list[State]) -> State | None:
    """Of the runs that were trained longest, the one with the highest accuracy; of equals, the first."""
    ended = [state for state in states if state.finished and state.accuracy is not None]
    most = max((state.done for state in ended), default=0)
    return max((state for state in ended if state.done == most), key=lambda state: state.accuracy, default=None)


def render(states: Iterable[State]) -> str:
    """The states as HTML: learning rates by batch sizes for a grid, otherwise the runs by seeds."""
    states = sorted(states, key=lambda state: -state.run["learning_rate"])
    varied = list_varied(state.run for state in states)
    tables = []
    if set(varied) <= set(CELL):
        for group in by_policy(states):
            caption = f"<b>{html.escape(group[0].run['policy'])}</b>, learning rate by batch size"
            rows = [format_rate(state.run["learning_rate"]) for state in group]
            tables.append(_render_table(caption, rows, "batch_size", group, find_best(group)))
    else:
        fields = [name for name in varied if name != "seed"]
        rows = [
            ", ".join(filter(None, (run["policy"], describe_fields(run, fields)))) for run in (s.run for s in states)
        ]
        tables.append(_render_table("run by seed", rows, "seed", states))
    return (
        f'<div style="display: flex; flex-wrap: wrap; gap: 0.5em 2em; line-height: 1.4">{"".join(tables)}</div>'
        f'<div style="line-height: 1.4">{LEGEND}</div>'
    )


def _render_table(caption: str, rows: list[str], column: str, states: list[State], best: State | None = None) -> str:
    frame = pd.DataFrame({"row": rows, "column": [state.run[column] for state in states], "state": states})
    table = frame.pivot(index="row", columns="column", values="state").reindex(list(dict.fromkeys(rows)))
    styler = table.rename_axis(index=None, columns=None).style.format_index(escape="html")
    styler = styler.format(lambda state: _describe_cell(state, best)[0]).map(
        lambda state: _describe_cell(state, best)[1]
    )
    return styler.set_caption(caption).set_table_styles(RULES).to_html()


def _describe_cell(state: Any, best: State | None) -> tuple[str, str]:
    """Text and CSS of a cell; a finished one has its own ink and ground."""
    if not isinstance(state, State):
        return "", BOX + "solid transparent"  # There is no such run.
    if state.finished and state.accuracy is not None:
        shade = min(max(int((state.accuracy - 0.5) * 2 * len(SHADES)), 0), len(SHADES) - 1)
        text, line = (
            (f"★ {state.accuracy:.3f}", "#d55e00") if state is best else (f"{state.accuracy:.3f}", "transparent")
        )
        ink = "#000000" if shade > 4 else "#ffffff"
        return text, f"{BOX}solid {line}; background: {SHADES[shade]}; color: {ink}"
    epochs = f"{int(state.done)}/{state.until:g}"
    if state.running:
        return f"▸ {epochs}", BOX + "dashed"
    return epochs if state.done else "·", BOX + "dotted #8c8c8c"


def is_plain() -> bool:
    """Whether plain text is asked for: COURSE_PROGRESS=plain, or CI."""
    return os.environ.get("COURSE_PROGRESS") == "plain" or bool(os.environ.get("CI"))


def choose_progress() -> Progress:
    """A widget in a notebook, a bar in a terminal, else plain text; see `is_plain`."""
    if is_plain():
        return Progress()
    if "ipykernel" in sys.modules:
        return NotebookProgress()
    return TerminalProgress() if sys.stdout.isatty() else Progress()


def interact(function: Callable[..., None], static: dict[str, str], controls: dict[str, Any], height: str = "") -> None:
    """Show `ipywidgets.interactive` of a function that displays something; `static` is what stands for it elsewhere.

    `static`, a MIME bundle, is what pages without a kernel show, and all there is where plain text is asked for: a
    widget's own text differs from version to version, and is no use to a reader.
    """
    from IPython.display import display

    bundle = dict(static)
    if not is_plain():
        import ipywidgets

        box = ipywidgets.interactive(function, **controls)
        box.out.layout.min_height = height  # What is below must not jump while the output is drawn anew.
        box.update()
        view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
        bundle["application/vnd.jupyter.widget-view+json"] = view
    display(bundle, raw=True)


def describe_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
