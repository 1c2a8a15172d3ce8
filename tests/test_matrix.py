"""The script behind `make matrix`, without the hour that its rows take."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "matrix.py"
EXAMPLE = """
import pytest

def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip
def test_skips(): pass
@pytest.fixture
def broken(): raise ValueError
def test_errs(broken): pass
"""


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("matrix", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "matrix", module)
    spec.loader.exec_module(module)
    module.MATRIX = tmp_path / "matrix"
    return module


def test_a_python_that_is_not_here_is_named_as_skipped(matrix, capsys):
    matrix.ROWS = [matrix.Row("python3.99", "python3.99")]
    assert matrix.main([]) == 0
    assert "python3.99 is not on this machine" in capsys.readouterr().out
    (record,) = json.loads((matrix.MATRIX / "matrix.json").read_text())["rows"]
    assert record["skipped"] and "tests" not in record


def test_an_unknown_row_is_refused(matrix, capsys):
    assert matrix.main(["today", "tomorrow"]) == 2
    assert "no row tomorrow" in capsys.readouterr().err


def test_the_counts_are_pytests(matrix, tmp_path):
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", tmp_path]
    assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode == 1
    assert matrix.count(report) == {"passed": 1, "failed": 2, "skipped": 1}


def test_a_row_with_a_failure_fails_the_matrix_and_is_in_the_table(matrix):
    good = {"passed": 2, "failed": 0, "skipped": 1, "exit_code": 0, "seconds": 3.0}
    row = {"name": "colab", "versions": {"python": "3.13.0"}, "tests": good, "notebooks": good}
    assert not matrix.is_bad(row)
    assert matrix.is_bad(row | {"notebooks": good | {"failed": 1, "exit_code": 1}})
    assert "| colab | 3.13.0 | 2 / 0 / 1 | 3 | 2 / 0 / 1 | 3 |" in matrix.describe([row])
