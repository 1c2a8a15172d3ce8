"""The doctor on machines that are really broken: each fault is named with its fix, and nothing ends in a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers import doctor
from helpers.settings import REVISIONS, CourseError, Settings

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
    installed = fakes / "bitfit_assignment-0.1.0.dist-info"
    installed.mkdir(parents=True)
    wanted = ["optuna<4,>=3", "no-such-package>=1", "numpy>=2"]
    lines = ["Metadata-Version: 2.1", "Name: bitfit-assignment", "Version: 0.1.0", "Requires-Python: >=3.99"]
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
        ("build folder", "FAIL", ["COURSE_BUILD", "cannot write"]),
        ("01.ipynb", "FAIL", ["cannot be read"]),
        ("kernel course-kernel", "FAIL", ["ipykernel install"]),
        ("network", "warn", ["127.0.0.1:9"]),
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
    for word in ("4,386,178 parameters", "2,000 train", "bf16", "runs this Python", "a new one starts", "none yet"):
        assert word in done.stdout


def test_an_unknown_profile_is_a_finding_and_not_the_end():
    findings = doctor.examine(profile="fast")
    assert findings[0].verdict == "FAIL" and "fast" in findings[0].found and len(findings) > 10


def test_a_check_that_stops_does_not_stop_the_others(monkeypatch):
    def check_first(settings):
        raise ZeroDivisionError("no cores")
        yield

    def check_second(settings):
        yield doctor.Finding("memory", "ok", "plenty")
        raise CourseError("half-way")

    def check_third(settings):
        yield doctor.Finding("disk", "warn", "little")

    monkeypatch.setattr(doctor, "CHECKS", [check_first, check_second, check_third])
    found = [(finding.what, finding.verdict) for finding in doctor.examine()]
    assert found == [("first", "FAIL"), ("memory", "ok"), ("second", "FAIL"), ("disk", "warn")]


@pytest.mark.parametrize(
    ("version", "wanted", "inside"),
    [
        ("2.13.0+cpu", ">=2.11,<3", True),
        ("2.11", ">=2.11,<3", True),
        ("2.9.1", ">=2.11,<3", False),
        ("3.0.0", "<3,>=2.11", False),
        ("10.0", ">=9,<11", True),
        ("3.1.5", ">=3.1.5,<4", True),
        ("3.1.4", ">=3.1.5,<4", False),
        ("5.0.0rc1", ">=5,<6", True),
        ("1.0", "", True),
    ],
)
def test_ranges(version, wanted, inside):
    assert doctor.in_range(version, wanted) is inside


def test_the_ranges_are_pyproject_s_also_where_the_course_is_not_installed(monkeypatch):
    def numbers(requirements):
        return requirements[0], {name.lower(): sorted(wanted.split(",")) for name, wanted in requirements[1].items()}

    monkeypatch.chdir(ROOT)
    installed = numbers(doctor.read_requirements())
    monkeypatch.setattr(doctor, "DISTRIBUTION", "a-course-that-is-not-installed")
    assert numbers(doctor.read_requirements()) == installed
    assert installed[1]["torch"] == ["<3", ">=2.11"]


@pytest.mark.parametrize("name", ["study.db", "results.json"])
def test_a_damaged_study_or_results_file_fails(tmp_path, name):
    settings = Settings(build=tmp_path)
    settings.folder.mkdir()
    (settings.folder / name).write_bytes(b"neither a database nor JSON " * 100)
    *_, finding = doctor.check_study(settings)
    assert finding.verdict == "FAIL" and "aside" in finding.found + finding.fix


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
    assert not doctor.is_cached(name, kind)
    snapshot = fill_cache(tmp_path, kind, name, files)
    assert doctor.is_cached(name, kind)
    for file in files:
        (snapshot / file).rename(tmp_path / "aside")
        assert not doctor.is_cached(name, kind), f"{file} is missing"
        (tmp_path / "aside").rename(snapshot / file)


def test_a_password_in_a_variable_is_not_shown(monkeypatch):
    for name in [name for name in os.environ if name.startswith("COURSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COURSE_STORAGE", "postgresql://course:secret@somewhere/db")
    said = " ".join(finding.found for finding in doctor.check_settings(Settings()))
    assert "somewhere/db" in said and "secret" not in said
