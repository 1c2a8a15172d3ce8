"""What a running sweep shows."""

import io
import re

import pytest

from helpers import progress
from helpers.progress import (
    CellState,
    NotebookProgress,
    Progress,
    Scoreboard,
    TerminalProgress,
    choose_progress,
    describe_time,
    render_grids,
)
from helpers.study import Task


class Recorded(Progress):
    def __init__(self):
        self.lines, self.shown = [], []
        super().__init__(self.lines.append)

    def show(self, done, total, status, grids):
        self.shown.append((done, total, status))
        self.grids = grids


class Queue:
    """A queue as the scoreboard sees it: what is recorded and what is being trained."""

    def __init__(self):
        self.records, self.running = {}, {}

    def look(self):
        return self.records, self.running

    def finish(self, cell, *accuracies):
        self.running.pop(cell, None)
        self.records[cell] = {
            "learning_rate": cell[0],
            "batch_size": cell[1],
            "epochs": [{"validation_accuracy": accuracy} for accuracy in accuracies],
            "validation_accuracy": accuracies[-1],
            "seconds": 12.0,
        }


FIRST, SECOND = (3e-4, 8), (1e-4, 8)


@pytest.fixture
def board():
    queue, shown = Queue(), Recorded()
    tasks = {"full": [Task(FIRST, 2), Task(SECOND, 2)]}
    return queue, Scoreboard({"full": queue}, tasks, {FIRST: 1.0, SECOND: 3.0}, 100, shown), shown


def test_it_counts_cells_and_epochs_and_names_the_best(board):
    queue, scoreboard, shown = board
    scoreboard.update()
    assert shown.shown[-1] == (0, 4, "0 of 2 cells, 0 of 4 epochs") and not shown.lines
    queue.running[FIRST] = {1: 0.6}
    scoreboard.update()
    done, total, status = shown.shown[-1]
    assert (done, total) == (1, 4) and "0 of 2 cells, 1 of 4 epochs" in status and "best full 0.600" in status
    assert "examples/s" in status and "left" in status
    queue.finish(FIRST, 0.6, 0.55)
    scoreboard.update()
    scoreboard.update()
    assert shown.lines == ["[ 1/2] full        learning rate 3e-4, batch   8: accuracy 0.550 (12 s)"]
    assert shown.shown[-1][:2] == (2, 4)


def test_the_time_left_follows_the_costs_of_the_cells(board, monkeypatch):
    queue, scoreboard, shown = board
    monkeypatch.setattr(progress.time, "monotonic", lambda: scoreboard.started + 10)
    queue.finish(FIRST, 0.6, 0.7)
    scoreboard.update()
    # Two epochs of cost 1 took 10 s, and two of cost 3 are left; 200 examples were trained in these 10 s.
    assert "about 30 s left" in shown.shown[-1][2] and "20 examples/s" in shown.shown[-1][2]


def test_what_was_there_before_is_neither_told_nor_counted_as_speed():
    queue, shown = Queue(), Recorded()
    queue.finish(FIRST, 0.6, 0.7)
    scoreboard = Scoreboard({"full": queue}, {"full": [Task(FIRST, 2), Task(SECOND, 2)]}, {}, 100, shown)
    scoreboard.update()
    assert shown.shown[-1] == (2, 4, "1 of 2 cells, 2 of 4 epochs · best full 0.700") and not shown.lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_times_are_told_in_a_fitting_unit(seconds, text):
    assert describe_time(seconds) == text


def test_ci_and_nbval_get_plain_text(monkeypatch, capsys):
    for name in ("CI", "COURSE_PROGRESS"):
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.delenv("COURSE_PROGRESS", raising=False)
        monkeypatch.setenv(name, "plain")
        shown = choose_progress()
        shown.show(1, 2, "half", {})
        shown.say("a line")
        shown.close()
        assert capsys.readouterr().out == "a line\n"


def test_a_terminal_keeps_its_bar_below_the_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    shown = TerminalProgress()
    shown.show(1, 2, "1 of 2 cells", {})
    shown.say("a line")
    shown.close()
    assert " 50%" in terminal.getvalue() and "1 of 2 cells" in terminal.getvalue() and "a line\n" in terminal.getvalue()


def test_a_notebook_gets_a_widget_that_ends_as_it_went(capsys):
    shown = NotebookProgress()
    assert capsys.readouterr().out == ""  # Where nothing is to be trained there is no empty bar.
    shown.show(1, 2, "1 of 2 cells", {})
    assert (shown.bar.value, shown.bar.max, shown.text.value) == (1, 2, "1 of 2 cells")
    shown.close()
    assert shown.bar.bar_style == "warning"
    shown.show(2, 2, "done", {})
    shown.close()
    assert capsys.readouterr().out.count("VBox(") == 1
    assert shown.bar.bar_style == "success"


def test_the_grid_shows_what_is_empty_running_and_finished_and_marks_the_best(board):
    queue, scoreboard, shown = board
    queue.finish(FIRST, 0.6, 0.55)
    queue.running[SECOND] = {1: 0.7}
    scoreboard.update()
    assert shown.grids == {"full": {FIRST: CellState(2, 2, 0.55), SECOND: CellState(1, 2, None, True)}}
    html = render_grids(shown.grids | {"bitfit": {FIRST: CellState(0, 4), SECOND: CellState(3, 4)}})
    cells = re.findall(r"<td style=[^>]*>([^<]+)</td>", html)
    assert cells == ["★ 0.550", "▸ 1/2", "·", "3/4"]


def test_a_stop_is_an_interrupt_and_leaves_no_cell_in_training():
    shown = NotebookProgress()
    shown.stop.click()
    with pytest.raises(KeyboardInterrupt):
        shown.show(1, 2, "half", {"full": {FIRST: CellState(1, 2, None, True)}})
    shown.close()
    assert ">1/2</td>" in shown.grid.value and "run the cell again" in shown.note.value
