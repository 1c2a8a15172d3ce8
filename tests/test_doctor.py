"""The doctor on machines that are really broken: each fault is named with its fix, and nothing ends in a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers import doctor, hub
from helpers.settings import REVISIONS, CourseError

ROOT = Path(__file__).parents[1]


def run(cwd, path, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "HF_"))}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, path))} | variables
    command = [sys.executable, "-m", "helpers", "doctor", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


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
    kernel = {"metadata": {"kernelspec": {"name": "course-kernel"}}}
    (machine / "notebooks" / "02.ipynb").write_text(json.dumps(kernel))
    (machine / "build").write_text("a file, not a folder")
    variables = {"COURSE_BUILD": str(machine / "build"), "COURSE_PROFIL": "full", "HF_ENDPOINT": "http://127.0.0.1:9"}
    variables["HF_HOME"] = str(machine / "empty")
    return run(machine, [fakes, ROOT], "--profile", "full", **variables)


@pytest.mark.parametrize(
    ("what", "verdict", "words"),
    [
        ("Python", "FAIL", [">=3.99"]),
        ("optuna", "FAIL", ["<4,>=3", "pip install"]),
        ("no-such-package", "FAIL", ["not installed", "pip install"]),
        ("numpy", "ok", []),
        ("device", "FAIL", ["libgomp.so.1", "pip install"]),
        ("helpers", "FAIL", [str(ROOT), "not from this folder", "pip install"]),
        ("variables", "warn", ["COURSE_PROFIL", "COURSE_PROFILE"]),
        ("build folder", "FAIL", ["COURSE_BUILD", "Cannot write"]),
        ("01.ipynb", "FAIL", ["cannot be read"]),
        ("kernel course-kernel", "FAIL", ["02.ipynb", "choose the kernel Python 3"]),
        ("network", "warn", ["127.0.0.1:9", "HF_ENDPOINT"]),
        ("hub model", "FAIL", ["prajjwal1/bert-tiny", "prefetch"]),
        ("hub dataset", "FAIL", ["stanfordnlp/imdb", "prefetch"]),
    ],
)
def test_a_fault_is_named_with_its_fix(broken, what, verdict, words):
    (line,) = (line for line in broken.stdout.splitlines() if line[6:].startswith(f"{what}  "))
    assert line.startswith(verdict) and all(word in line for word in words), line


def test_a_broken_machine_gets_exit_code_1_and_no_traceback(broken):
    assert broken.returncode == 1
    assert "Traceback" not in broken.stdout + broken.stderr
    assert "FAIL, " in broken.stdout.splitlines()[-1]


def test_this_machine_is_well(tmp_path):
    done = run(ROOT, [ROOT], COURSE_BUILD=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("4,386,178 parameters", "2,000 train", "bf16", "runs this Python", "a new one starts", "0 finished"):
        assert word in done.stdout


def test_an_unknown_profile_is_a_finding_and_not_the_end():
    findings = doctor.examine(profile="fast")
    assert findings[0].verdict == "FAIL" and "fast" in findings[0].found and len(findings) > 10


def test_a_check_that_stops_does_not_stop_the_others(monkeypatch):
    def first(settings):
        raise ZeroDivisionError("no cores")

    def second(settings):
        yield doctor.Finding("memory", "ok", "plenty")
        raise CourseError("half-way")

    checks = {"first": (first, ""), "second": (second, "Wait."), "third": (lambda settings: "well", "")}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    found = [(finding.what, finding.verdict, finding.fix) for finding in doctor.examine()]
    install = doctor.INSTALL
    assert found == [("first", "FAIL", install), ("memory", "ok", ""), ("second", "FAIL", "Wait."), ("third", "ok", "")]


def test_the_ranges_are_pyproject_s_also_where_the_course_is_not_installed(monkeypatch):
    def plain(requirements):
        return requirements[0], {each.name: each.specifier for each in requirements[1]}

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(doctor, "DISTRIBUTION", "a-course-that-is-not-installed")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    python, found = plain(doctor.read_requirements())
    assert f'requires-python = "{python}"' in project
    assert found["torch"] == ">=2.11,<3" and "psutil" in found and "pytest" not in found


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [("results.json", "FAIL", "aside"), ("runs/full-1/record.json", "warn", "trained again")],
)
def test_damaged_files_of_a_run_are_named(tmp_path, monkeypatch, name, verdict, words):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    path = tmp_path / "quick" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"neither a database nor JSON " * 100)
    monkeypatch.setattr(doctor, "CHECKS", {"runs": doctor.CHECKS["runs"]})
    finding = next(each for each in doctor.examine() if each.verdict != "ok")
    assert finding.verdict == verdict and words in finding.found + finding.fix


PROXIES = {"socks5://127.0.0.1:9": "socks", "http://[half": "", "http//127.0.0.1:9": "", "http://127.0.0.1:9": ""}
FETCH = """
from helpers.data import load_reviews
from helpers.hub import call_hub
from helpers.models import fingerprint_model, load_classifier, load_tokenizer
from helpers.settings import CourseError, load_settings
settings = load_settings("full")
print(call_hub())
for action in (load_classifier, load_tokenizer, fingerprint_model):
    try:
        action(settings.model)
    except CourseError as error:
        print(error)
try:
    load_reviews(settings)
except CourseError as error:
    print(error)
"""


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_does_not_work_is_one_sentence(tmp_path, proxy):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "HF_"))}
    variables = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FETCH], env=kept | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    network, *lines = done.stdout.splitlines()
    assert "does not answer" in network and PROXIES[proxy] in network.lower()
    assert len(lines) == 4 and "Traceback" not in done.stderr
    assert all("--profile quick" in line and "HTTPS_PROXY" in line and proxy not in line for line in lines)


def fill_cache(cache: Path, kind: str, name: str, files: list[str]) -> Path:
    snapshot = cache / f"{kind}s--{name.replace('/', '--')}" / "snapshots" / REVISIONS[name]
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    return snapshot


@pytest.mark.parametrize(
    ("kind", "name", "files"),
    [
        ("model", "prajjwal1/bert-tiny", ["config.json", "pytorch_model.bin", "vocab.txt"]),
        ("dataset", "stanfordnlp/imdb", ["plain_text/train-00000-of-00001.parquet", "plain_text/test-0.parquet"]),
    ],
)
def test_the_cache_counts_only_when_every_file_is_there(tmp_path, monkeypatch, kind, name, files):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.find_cached(name, kind) is None
    snapshot = fill_cache(tmp_path, kind, name, files)
    assert hub.find_cached(name, kind)
    for file in files:
        (snapshot / file).rename(tmp_path / "aside")
        assert hub.find_cached(name, kind) is None, f"{file} is missing"
        (tmp_path / "aside").rename(snapshot / file)
