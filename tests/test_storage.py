"""Workers on several machines share a PostgreSQL server: a real one, started here on a free port."""

import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from test_sweep import (
    QUIET,
    accuracies,
    child_workers,
    kill,
    settings,  # noqa: F401
    sources,  # noqa: F401
    start_sweep,
    sweep_code,
    wait_for_the_end_of,
)

from helpers import study, sweep
from helpers.results import load_results
from helpers.settings import CourseError
from helpers.study import open_storage

SERVER = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [os.path.dirname(shutil.which("initdb") or "")]


@pytest.fixture(scope="module")
def server():
    """The URL of an empty PostgreSQL server of our own, which ends with the module's tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    binaries = SERVER[-1]
    if not os.access(os.path.join(binaries, "initdb"), os.X_OK):
        pytest.skip("no PostgreSQL server is installed (Debian and Ubuntu: apt install postgresql)")
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="course-postgresql-"))  # pytest's folders are closed to other users.
    if user:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    subprocess.run(
        [f"{binaries}/initdb", "-D", data, "-U", "course", "-A", "trust", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        **user,
    )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [f"{binaries}/pg_ctl", "-D", data, "-w"]
    subprocess.run(
        [*control, "-l", folder / "log", "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, **user
    )
    yield f"postgresql://course@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, **user)
    shutil.rmtree(folder)


def test_two_machines_share_the_grid_and_one_dies(settings, server, tmp_path):  # noqa: F811
    """Two build folders stand for two machines; one of them is killed with all its workers in mid-run."""
    shared = replace(settings, storage=server, epochs=12)
    machines = [replace(shared, build=tmp_path / name) for name in ("first", "second")]
    quick_to_notice = "import helpers.study as study\nstudy.HEARTBEAT, study.SILENCE = 1, 5\n"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", quick_to_notice + sweep_code(machine, ["bitfit"], 1)], start_new_session=True
        )
        for machine in machines
    ]
    storage = open_storage(machines[0])
    wait_until(lambda: len(running(storage)) == 2, "both machines train a cell of their own", processes)
    for victim in [processes[0].pid, *child_workers(processes[0].pid)]:
        kill(victim)
    processes[0].wait()
    wait_for_the_end_of(processes[0].pid)
    assert processes[1].wait(timeout=300) == 0
    trials = bitfit_trials(storage, TrialState.COMPLETE)
    assert sorted(tuple(trial.user_attrs["cell"]) for trial in trials) == sorted(shared.cells)
    found = load_results(machines[1].folder / "results.json")
    alone = replace(shared, storage=None, build=tmp_path / "alone")
    assert accuracies(found) == accuracies(sweep.run_sweep(alone, ["bitfit"], 0, progress=QUIET))

    # The machine that died comes back, finds nothing to train, and has the same results.
    again = start_sweep(machines[0], ["bitfit"], 1, stdout=subprocess.PIPE)
    assert "to train" not in again.communicate(timeout=300)[0] and again.returncode == 0
    assert accuracies(load_results(machines[0].folder / "results.json")) == accuracies(found)


def test_a_server_that_is_not_there_is_named_without_its_password(settings):  # noqa: F811
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    away = replace(settings, storage="postgresql://course:secret@127.0.0.1:1/none")
    with pytest.raises(CourseError, match="127.0.0.1:1/none") as caught:
        open_storage(away)
    assert "secret" not in str(caught.value)


def test_a_study_is_named_without_its_password(settings):  # noqa: F811
    away = replace(settings, storage="postgresql://course:secret@somewhere/db")
    assert study.describe_storage(away) == "somewhere/db"
    assert study.describe_storage(settings) == str(settings.folder / "study.db")


def bitfit_trials(storage, *states):
    if "quick-bitfit" not in optuna.get_all_study_names(storage):
        return []
    return optuna.load_study(study_name="quick-bitfit", storage=storage).get_trials(deepcopy=False, states=states)


def running(storage):
    trials = bitfit_trials(storage, TrialState.RUNNING)
    return {tuple(trial.user_attrs["cell"]) for trial in trials if trial.intermediate_values}


def wait_until(condition, what: str, processes) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), what
        time.sleep(0.1)


def test_signs_of_life_come_often_enough():
    assert study.SILENCE >= 5 * study.HEARTBEAT
