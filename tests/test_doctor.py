"""The doctor on machines that are really broken: each fault is named with its fix, and nothing ends in a traceback."""

import json
from unittest.mock import Mock

import pytest
from conftest import ROOT, run_python
from huggingface_hub import constants

from helpers import doctor, hub, workers
from helpers.settings import REVISIONS, CourseError, Settings


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A machine on which much is wrong at once; returns what the doctor said."""
    machine = tmp_path_factory.mktemp("machine")
    fakes = machine / "fakes"
    installed = fakes / "bitfit_assignment-0.2.0.dist-info"
    installed.mkdir(parents=True)
    wanted = ["optuna<4,>=3", "no-such-package>=1", "numpy>=2"]
    lines = ["Metadata-Version: 2.1", "Name: bitfit-assignment", "Version: 0.2.0", "Requires-Python: >=3.99"]
    installed.joinpath("METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in wanted), ""]))
    (fakes / "torch.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')\n")
    (machine / "notebooks").mkdir()
    (machine / "notebooks" / "01.ipynb").write_text("{")
    (machine / "build").mkdir()
    (machine / "build" / "full").write_text("a file, not a folder")
    variables = {"COURSE_BUILD": str(machine / "build"), "COURSE_PROFIL": "full", "HF_ENDPOINT": "http://127.0.0.1:9"}
    variables["HF_HOME"] = str(machine / "empty")
    command = ["-m", "helpers", "doctor", "--profile", "full"]
    return run_python(*command, cwd=machine, path=(fakes, ROOT), **variables)


@pytest.mark.parametrize(
    ("what", "verdict", "words"),
    [
        ("variables", "warn", ["COURSE_PROFIL", "COURSE_PROFILE"]),
        ("versions", "FAIL", [">=3.99", "<4,>=3", "no-such-package is not installed", "pip install"]),
        ("notebooks", "FAIL", ["01.ipynb", "not a readable notebook"]),
        ("inputs", "FAIL", ["not in the hub's cache", "prefetch --model prajjwal1/bert-tiny"]),
        ("machine", "FAIL", ["libgomp.so.1", "pip install"]),
        ("build folder", "FAIL", ["COURSE_BUILD", "Cannot write"]),
        ("network", "warn", ["127.0.0.1:9", "HF_ENDPOINT"]),
    ],
)
def test_a_fault_is_named_with_its_fix(broken, what, verdict, words):
    (line,) = (line for line in broken.stdout.splitlines() if line[6:].startswith(f"{what}  "))
    assert line.startswith(verdict) and all(word in line for word in words), line
    assert "numpy" not in line


def test_a_broken_machine_gets_exit_code_1_and_no_traceback(broken):
    assert broken.returncode == 1
    assert "Traceback" not in broken.stdout + broken.stderr
    assert "5 FAIL" in broken.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("kernel", "argv", "words"),
    [
        ("conda-env-x", None, ["02.ipynb asks for the kernel conda-env-x", "choose the kernel Python 3"]),
        ("mine", ["/no/such/python"], ["The kernel mine (/no/such/python)", "nowhere", "ipykernel install"]),
        ("mine", ["/bin/false"], ["nowhere", "--name mine"]),
        ("mine", ["python3", "-m", "ipykernel"], ["from elsewhere", "pip install", "unset PYTHONPATH"]),
    ],
)
def test_a_kernel_that_does_not_import_the_student_s_helpers(tmp_path, monkeypatch, kernel, argv, words):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "elsewhere").symlink_to(ROOT)
    content = {"cells": [], "metadata": {"kernelspec": {"name": kernel}}}
    (tmp_path / "notebooks" / "02.ipynb").write_text(json.dumps(content))
    (tmp_path / "notebooks" / "Untitled.ipynb").write_text("{")  # the student's own
    if argv:
        (tmp_path / "kernels" / kernel).mkdir(parents=True)
        spec = {"argv": argv, "display_name": kernel, "language": "python"}
        (tmp_path / "kernels" / kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError) as error:
        doctor.check_notebooks(Settings())
    said = str(error.value).replace(str(tmp_path / "elsewhere"), "elsewhere")
    assert all(word in said for word in words), said


def test_this_machine_is_well(tmp_path):
    done = run_python("-m", "helpers", "doctor", COURSE_BUILD=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("4,386,178 parameters", "2,000 train", "precision auto is", f"helpers from {ROOT}", "is writable"):
        assert word in done.stdout


def test_a_package_that_is_missing_ends_nothing(tmp_path):
    """Even those that the doctor uses itself."""
    for name in ("packaging", "psutil", "nbformat", "huggingface_hub", "jupyter_client"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('it is missing')\n")
    done = run_python("-m", "helpers", "doctor", path=(tmp_path, ROOT), COURSE_BUILD=str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.count("ImportError: it is missing") == 5


def test_without_shared_memory_the_reason_is_said(monkeypatch):
    refuse = Mock(side_effect=FileNotFoundError(2, "No such file or directory"))
    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    with pytest.raises(CourseError, match="No such file or directory.*/dev/shm"), workers.open_executor(1, None):
        pass


PROXIES = {"socks5://127.0.0.1:9": "socks", "http://[half": "", "http//127.0.0.1:9": "", "http://127.0.0.1:9": ""}
FETCH = """
import os, sys
from helpers.data import load_reviews
from helpers.doctor import check_network
from helpers.models import fingerprint_model, load_classifier, load_tokenizer
from helpers.settings import CourseError, load_settings
settings = load_settings("full")
for proxy in sys.argv[1:]:  # A fork for each: a client of the network remembers its proxy.
    if os.fork():
        os.wait()
        continue
    os.environ |= {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    steps = [(check_network, settings), (load_reviews, settings)]
    steps += [(load, settings.model) for load in (load_classifier, load_tokenizer, fingerprint_model)]
    for step, given in steps:
        try:
            step(given)
        except CourseError as error:
            print(error, flush=True)
    os._exit(0)
"""


def test_a_proxy_that_does_not_work_is_one_sentence(tmp_path):
    alone = "-W", "ignore::DeprecationWarning", "-c", FETCH  # of a fork
    done = run_python(*alone, *PROXIES, HF_HOME=str(tmp_path), REQUESTS_CA_BUNDLE="")
    lines = done.stdout.splitlines()
    assert len(lines) == 5 * len(PROXIES) and not done.stderr, done.stderr
    for row, (proxy, word) in enumerate(PROXIES.items()):
        network, *said = lines[5 * row : 5 * row + 5]
        assert "does not answer" in network and word in network.lower()
        words = ("--profile quick", "python -m helpers prefetch", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE")
        assert all(word in line and proxy not in line for line in said for word in words)


@pytest.mark.parametrize(
    ("kind", "name", "files"),
    [
        ("model", "prajjwal1/bert-tiny", ["config.json", "pytorch_model.bin", "vocab.txt"]),
        ("dataset", "stanfordnlp/imdb", ["plain_text/train-00000-of-00001.parquet", "plain_text/test-0.parquet"]),
        ("dataset", "stanfordnlp/imdb", ["IMDB Dataset.csv"]),
    ],
)
def test_the_cache_counts_only_when_every_file_is_there(tmp_path, monkeypatch, kind, name, files):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.find_cached(name, kind) is None
    snapshot = tmp_path / f"{kind}s--{name.replace('/', '--')}" / "snapshots" / REVISIONS[name]
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    assert hub.find_cached(name, kind)
    for file in files:
        (snapshot / file).rename(tmp_path / "aside")
        assert hub.find_cached(name, kind) is None, f"{file} is missing"
        (tmp_path / "aside").rename(snapshot / file)
