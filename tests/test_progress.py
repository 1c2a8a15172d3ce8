"""What a running training shows, in a log, a terminal and a notebook."""

import io
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from helpers import progress
from helpers.progress import NotebookProgress, Progress, State, choose_progress, describe_time, render
from helpers.settings import Run

FULL, SLOW, BIASES = Run("full"), Run("full", learning_rate=1e-4), Run("bitfit", batch_size=16)


def state(run: Run, done: float, accuracy: float | None = None, until: float = 4, running: bool = False) -> State:
    return State(run, done, until, accuracy, running)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def pages(monkeypatch) -> list[dict[str, str]]:
    """What a notebook's one output shows, time after time."""
    shown = []
    output = SimpleNamespace(update=lambda bundle, **options: shown.append(bundle))

    def display(bundle, **options):
        assert not shown, "a second output"
        shown.append(bundle)
        return output

    monkeypatch.setattr("IPython.display.display", display)
    return shown


def test_a_log_says_at_once_what_there_is_to_do_and_then_a_line_a_run(capsys, clock):
    shown = Progress()
    shown.show([state(FULL, 0), state(BIASES, 0), state(SLOW, 4, 0.8)])
    assert "1 of 3 runs, 4 of 12 epochs, the first figures come soon" in capsys.readouterr().out
    shown.show([state(FULL, 1.5, 0.6, running=True), state(BIASES, 0), state(SLOW, 4, 0.8)])
    assert capsys.readouterr().out == ""
    for _ in range(2):
        shown.show([state(FULL, 4, 0.95), state(BIASES, 4, 0.6), state(SLOW, 4, 0.8)])
    shown.close()
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "[2/3] full, rate 3e-4, batch 8: accuracy 0.950",
        "[3/3] bitfit, rate 3e-4, batch 16: accuracy 0.600",
    ]
    assert out.isascii()


def test_where_nothing_is_to_be_trained_nothing_is_shown(capsys, pages):
    for shown in (Progress(), NotebookProgress()):
        shown.show([state(FULL, 4, 0.95)])
        shown.close()
    assert capsys.readouterr().out == "" and not pages


def test_pruned_runs_say_after_which_epoch_and_stay_in_the_picture(capsys):
    shown = Progress()
    shown.show([state(FULL, 0, until=1), state(SLOW, 0, until=1)])
    shown.show([state(FULL, 1, 0.7, until=1), state(SLOW, 1, 0.6, until=1)])
    shown.show([state(FULL, 1, 0.7)])
    shown.show([state(FULL, 4, 0.9)])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[:2] == [
        f"[{place}/2] full, rate {rate}: accuracy {accuracy} after 1 of 4 epochs"
        for place, rate, accuracy in ((1, "3e-4", "0.700"), (2, "1e-4", "0.600"))
    ]
    assert lines[2:] == ["[2/2] full, rate 3e-4: accuracy 0.900"]
    assert "★ 0.900" in render(shown.known.values()) and "0.600" in render(shown.known.values())


def test_the_time_left_follows_the_epochs_done_here_and_the_reviews_of_each(clock):
    small, large = Run("full", reviews=100, epochs=40), Run("full", reviews=1000)
    for runs, until, steps, said in (
        # At first the workers start; then 1 epoch takes 10 s, and 4.5 are left.
        ((FULL, SLOW), 4, [(0, 2, 0), (20, 2.5, 0), (30, 3.5, 0)], "about 45 s left"),
        ((FULL, SLOW), 4, [(0, 2, 0), (20, 2.5, 0), (40, 4, 3.99)], "nearly done"),
        # 10 epochs of 100 reviews take 10 s, and 2,000 and 4,000 reviews are left.
        ((small, large), 40, [(0, 0, 0), (1, 10, 0), (11, 20, 0)], "about 60 s left"),
    ):
        shown = Progress()
        for now, first, second in steps:
            clock[0] = now
            shown.show([state(runs[0], first, 0.7, until), state(runs[1], second)])
        assert said in shown.describe_status()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_times_are_told_in_a_fitting_unit(seconds, text):
    assert describe_time(seconds) == text


def test_the_place_decides_what_is_shown(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    for name in ("CI", "COURSE_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert type(choose_progress()) is Progress and not Progress().bar.disable
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert type(choose_progress()) is NotebookProgress
    for name in ("CI", "COURSE_PROGRESS"):
        with monkeypatch.context() as change:
            change.setenv(name, "plain")
            assert type(choose_progress()) is Progress and Progress().bar.disable


def test_a_terminal_keeps_its_bar_below_the_lines_also_after_a_round_of_pruning(monkeypatch):
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    for name in ("CI", "COURSE_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    shown = Progress()
    for until in (2, 4):
        terminal.truncate(0)
        for done in (until - 2, until):
            shown.show([state(FULL, done, 0.95, until), state(SLOW, until - 2, until=until)])
        shown.close()
        assert f" {100 * (until - 1) / until:.0f}%" in terminal.getvalue()
        assert "full, rate 3e-4: accuracy 0.950" in terminal.getvalue()


def test_a_notebook_gets_one_output_which_says_at_its_end_what_was_done(capsys, pages):
    shown = NotebookProgress()
    shown.show([state(FULL, 0), state(SLOW, 0)])
    assert "the first figures come soon" in pages[-1]["text/html"] and "■" in pages[-1]["text/html"]
    shown.show([state(FULL, 4, 0.9), state(SLOW, 1.5, running=True)])
    assert 'value="5.5" max="8"' in pages[-1]["text/html"] and "▸ 1/4" in pages[-1]["text/html"]
    shown.close()  # Stopped: no run is in training any longer.
    assert "▸" not in pages[-1]["text/html"].split("</table>")[0] and "■" not in pages[-1]["text/html"]
    shown.show([state(FULL, 4, 0.9), state(SLOW, 4, 0.8)])
    shown.close()
    assert pages[-1]["text/plain"] == "2 of 2 runs, 8 of 8 epochs, best full 0.900"
    assert "2 of 2 runs" in pages[-1]["text/html"] and capsys.readouterr().out == ""


def test_what_is_finished_is_all_done_where_epochs_are_no_whole_number():
    shown = Progress()
    for done, said in ((0.1, "0 of 1.2 epochs"), (0.6, "1.2 of 1.2 epochs")):
        shown.show([state(replace(run, epochs=0.6), done, 0.6, until=0.6) for run in (FULL, SLOW)])
        assert said in shown.describe_status()


def test_the_grid_shows_what_is_empty_running_and_finished_and_marks_the_best():
    states = [state(FULL, 4, 0.55), state(SLOW, 1.5, 0.7, running=True), state(replace(FULL, batch_size=16), 4, 0.5)]
    states += [state(BIASES, 0), state(replace(BIASES, learning_rate=1e-4), 3)]
    html = render(states)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", html) == ["★ 0.550", "0.500", "▸ 1/4", "", "", "·", "", "3/4"]
    heads = ["batch size", "8", "16", "full, rate 3e-4", "full, rate 1e-4", "bitfit, rate 3e-4", "bitfit, rate 1e-4"]
    assert re.findall(r"<th>([^<]*)</th>", html) == heads


def test_every_list_of_runs_has_a_picture_and_names_of_its_own(capsys):
    lists = [[FULL], [FULL, replace(FULL, at_end=True)], [replace(FULL, epochs=n) for n in (64.8648, 64.86481)]]
    lists += [[replace(FULL, encoder="<b>")], [FULL, replace(FULL, reviews=40), replace(FULL, seed=1, batch_size=16)]]
    for runs in lists:
        html = render(state(run, 4, 0.7) for run in runs)
        assert "0.700" in html and "<b>" not in html
    runs = [Run("bitfit", seed=seed, head_scale=scale) for scale in (1, 10, 50) for seed in (0, 1)]
    assert render(state(run, 4, 0.6) for run in runs).count("<tr>") == 4
    shown = Progress()
    for done in (0, 4):
        shown.show([state(run, done, 0.6) for run in runs])
    names = {line.split("] ")[-1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert len(names) == 6 and "bitfit, classifier weight x 50, seed 1: accuracy 0.600" in names
