"""The command line as its users meet it."""

import os
import runpy
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

import matplotlib
import matplotlib.pyplot as plt
import pytest
from conftest import RESULTS, ROOT, change_cell, run_python

from helpers.__main__ import main
from helpers.answers import PROMPT
from helpers.data import load_reviews
from helpers.results import load_results
from helpers.settings import Run

SCRIPTS = [path for room in ("scripts", "benchmarks") for path in sorted((ROOT / room).glob("*.py"))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["assignment"], ["assignment's folder"]),
        (["sweep", "--profile", "fast"], ["fast", "quick", "full"]),
        (["sweep", "--policy", "bitfti"], ["bitfti", "bitfit+head"]),
        (["sweep", "--data", "/no/such/folder"], ["/no/such/folder"]),
        (["cell", "--model", "./no-model"], ["no-model"]),
        (["cell", "--seed", "-1"], ["seed", "from 0 to 4294967295", "-1"]),
        (["answers", "--results", "no-results.json"], ["no-results.json"]),
        (["submit", "--incomplete", "--out", str(RESULTS)], ["Could not write", "Is a directory"]),
        (["answers", "--results", f"{RESULTS}/lab_cost.json"], ["lab_cost.json", "results of a search"]),
        (
            ["lab", "cost", "--scheduler", "tcp://HOST:8786", "--data", f"{RESULTS}/lab_cost.json"],
            ["measured on this machine", "no column text"],
        ),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    if arguments == ["assignment"]:  # where there are no notebooks
        monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):  # argparse's own, with the code 2
        assert main(arguments) == 2
    said = "".join(capsys.readouterr())
    assert "error: " in said and all(word in said for word in words)


def test_the_process_ends_with_that_code_and_developers_alone_get_a_traceback(tmp_path):
    command = "-m", "helpers", "sweep", "--profile", "fast"
    done = run_python(*command, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    done = run_python(*command, "--traceback", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "--traceback" not in run_python(*command, "--help").stdout


@pytest.mark.parametrize("command", ["helpers submit", "helpers lab head", "instructor grade x"])
def test_a_python_without_the_packages_says_which_one_to_use(command):
    done = run_python("-S", "-m", *command.split())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "No module named" in done.stderr and sys.executable in done.stderr and ".venv/bin/python" in done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_that_is_asked_for_help_does_nothing_else(path, monkeypatch, capsys):
    source = path.read_text(encoding="utf-8")
    if "__main__" in source:
        assert "ArgumentParser" in source
        monkeypatch.setattr(sys, "argv", [path.name, "--help"])
        monkeypatch.syspath_prepend(path.parent)
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(path), run_name="__main__")
        assert capsys.readouterr().out.startswith(f"usage: {path.name}")


@pytest.mark.xdist_group("workers")  # They are forked by one process, which takes seconds to begin.
def test_the_benchmarks_still_measure(settings, monkeypatch):
    """What nobody runs for weeks. The engine's workers do not see what a script defines, so this one is `__main__`."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["speed.py", "--help"])
    spec = spec_from_file_location("__main__", ROOT / "benchmarks" / "speed.py")
    monkeypatch.setitem(sys.modules, "__main__", speed := module_from_spec(spec))
    with pytest.raises(SystemExit):
        spec.loader.exec_module(speed)
    accuracy, reference, step = map(import_module, ("accuracy", "reference", "step"))
    padded = {split: reference.tokenise(rows, settings.model) for split, rows in load_reviews(settings).items()}
    assert all(speed.measure_side(settings, padded, "ours", Run("full", epochs=1), 1).values())
    monkeypatch.setattr(step, "BATCH_SIZE", 4)
    assert sum(step.profile_steps(settings, padded, "full")["shares"].values()) == pytest.approx(1, abs=0.01)
    for job in accuracy.list_runs()[-2:]:
        assert accuracy.train(settings, padded, job)["validation_accuracy"] > 0


def test_a_reader_that_leaves_gets_no_traceback(sources, tmp_path):
    """Not while a run is trained either: see `test_runs`."""
    command = [sys.executable, "-m", "helpers", "doctor", "--model", sources / "model", "--data", sources / "data"]
    here = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"COURSE_BUILD": str(tmp_path)}, **here) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as log:
        done = subprocess.run([sys.executable, "-m", "helpers", "answers"], stdout=log, stderr=subprocess.PIPE)
    assert b"error: [Errno 28] No space left on device. Is there room" in done.stderr
    assert b"Traceback" not in done.stderr and done.returncode


@pytest.mark.parametrize("written", [True, False])
def test_the_assignment_needs_no_answers(tmp_path, monkeypatch, capsys, written):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    if not written:
        change_cell(tmp_path / "notebooks", "answer-1b", source=PROMPT)
    folder = tmp_path / "build" / "quick"
    folder.mkdir(parents=True)
    results = shutil.copy(RESULTS / "quick.json", folder / "results.json")
    monkeypatch.setattr("helpers.sweep.run_sweep", lambda *_, **options: load_results(results))
    monkeypatch.setattr("helpers.plots.save_plots", lambda *_: plt.close(plt.figure()))
    monkeypatch.setitem(matplotlib.rcParams, "backend", "module://not_installed")  # as MPLBACKEND may say
    monkeypatch.setattr(plt, "_backend_mod", None)
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    monkeypatch.chdir(tmp_path)
    assert main(["assignment"]) == 0
    said = capsys.readouterr().out
    assert (folder / "answers.md").exists() == written == (", answers.md" in said)
    assert written == ("No answer to problem 1b" not in said) and f"Written to {folder}: results.json" in said
