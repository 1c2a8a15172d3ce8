"""The degrees of isolation, each asked for by a process and a user of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

NOBODY = 65534
SOURCE = Path(__file__).parents[1] / "instructor"
PARTS = ("__init__", "sandbox", "limits", "worlds", "groups")
# What a grader does, as a user who may not be able to read this project: it runs from a copy.
GRADER = """
import dataclasses, json, sys
from instructor import groups, sandbox
job = json.load(sys.stdin)
problem, outcome = sandbox.try_degree(job["degree"]), {}
if not problem:
    command, limits = [sys.executable, "-c", job["code"]], sandbox.Limits(**job["limits"])
    outcome = dataclasses.asdict(sandbox.run(command, (), limits, degree=job["degree"], hidden=tuple(job["hidden"])))
print(json.dumps({"problem": problem, "group": not groups.find_problem()} | outcome))
"""


@dataclass(frozen=True)
class Setting:
    """A degree of isolation, the Python that asks for it, and the user who does."""

    degree: str
    python: str
    user: int

    def __str__(self) -> str:
        return f"{self.degree}-{'root' if self.user == 0 else 'ordinary'}"


def find_settings() -> list[Setting]:
    here = os.getuid()
    settings = [Setting("namespaces", sys.executable, here)]
    if here == 0:
        system = shutil.which("python3", path="/usr/bin") or sys.executable
        settings += [Setting("user", system, 0), Setting("namespaces", system, NOBODY)]
    return settings


@cache
def copy_parts() -> str:
    """The sandbox's code and psutil, where everybody can read them."""
    folder = tempfile.mkdtemp()
    os.makedirs(f"{folder}/instructor")
    for part in PARTS:
        shutil.copy(SOURCE / f"{part}.py", f"{folder}/instructor")
    shutil.copytree(Path(psutil.__file__).parent, f"{folder}/psutil", ignore=shutil.ignore_patterns("tests"))
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return folder


def run(setting: Setting, code: str, hidden: tuple[str, ...] = (), **limits: float) -> dict:
    limits = {"seconds": 20, "memory": 2**28} | limits
    job = {"code": code, "degree": setting.degree, "limits": limits, "hidden": hidden}
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o1777)
    other = {"user": setting.user, "group": setting.user, "extra_groups": []} if setting.user != os.getuid() else {}
    done = subprocess.run(
        [setting.python, "-c", GRADER],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "SECRET": "x", "TMPDIR": folder, "PYTHONPATH": copy_parts()},
        **other,
    )
    assert done.returncode == 0, done.stderr
    assert not os.listdir(folder), "a folder was left behind"
    os.rmdir(folder)
    return json.loads(done.stdout)


@cache
def why_not(setting: Setting) -> str:
    script = "import sys; sys.exit(sys.version_info < (3, 10))"
    if subprocess.run([setting.python, "-c", script], capture_output=True).returncode:
        return f"{setting.python} is older than Python 3.10"
    return run(setting, "pass")["problem"]
