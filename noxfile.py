"""Run the tests and the notebooks with other versions of Python and the libraries: `make matrix`, `nox -s colab`.

If `make assignment` has finished, the notebooks reuse its 40 runs instead of training them again in every session; the
unit tests always train. Python versions that are not on this machine are skipped. The results are in
build/matrix/SESSION/row.json, next to pytest's own reports.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import nox

from helpers.results import describe_machine

nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
MATRIX = Path(__file__).parent / "build" / "matrix"
SHOWN = ("torch", "transformers", "datasets", "optuna", "numpy", "pandas", "ipywidgets", "ipython")
VERSIONS = f"""
import importlib.metadata, json, platform
versions = {{name: importlib.metadata.version(name) for name in {SHOWN}}}
print(json.dumps({{"python": platform.python_version()}} | versions))
"""
# The caller's settings must not matter; None removes a variable.
CLEAN = {name: None for name in os.environ if name.startswith(("COURSE_", "MAKE", "MFLAGS", "PYTHONPATH"))}
CLEAN |= {
    "COURSE_PROFILE": "quick",
    "COURSE_PROGRESS": "plain",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@nox.session
def today(session: nox.Session) -> None:
    """This environment's Python, with the versions in constraints.txt."""
    try_row(session, "constraints.txt", "test,cluster,nbgrader")


@nox.session
def colab(session: nox.Session) -> None:
    """Colab's versions; its IPython is older than nbgrader can use."""
    try_row(session, "constraints-colab.txt", "test,cluster", COURSE_COLAB="1")


@nox.session(python=[f"3.{minor}" for minor in (10, 11, 12, 13) if minor != sys.version_info.minor])
def python(session: nox.Session) -> None:
    """Other Python versions; if one is not supported by a pinned package, the ranges in pyproject.toml decide."""
    try_row(session, "constraints.txt", "test,cluster,nbgrader")


def try_row(session: nox.Session, constraints: str, extras: str, **variables: str) -> None:
    session.install("-c", constraints, "-e", f".[{extras}]")
    folder = MATRIX / session.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if (trained := Path("build", "quick")).exists():
        shutil.copytree(trained, folder / "build" / "quick")
    env = CLEAN | {"COURSE_BUILD": str(folder / "build")} | variables
    row = {"name": session.name, "versions": json.loads(session.run("python", "-c", VERSIONS, silent=True))}
    row["hardware"] = describe_machine()
    for step, arguments in {"tests": ("-n", "logical", "--dist", "loadgroup"), "notebooks": ("--nbval",)}.items():
        report = folder / f"{step}.xml"
        command = ("python", "-m", "pytest", f"--junitxml={report}", *arguments, step)
        session.run(*command, env=env, success_codes=[0, 1])
        suite = ElementTree.parse(report).getroot()[0]
        tests, skipped, failures, errors = (int(suite.get(n)) for n in ("tests", "skipped", "failures", "errors"))
        failed = failures + errors
        row[step] = {"passed": tests - skipped - failed, "failed": failed, "skipped": skipped}
    row["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (folder / "row.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    if row["tests"]["failed"] or row["notebooks"]["failed"]:
        session.error(f"Something failed: see {folder}")
