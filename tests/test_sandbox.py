"""The sandbox in every degree of isolation that this machine lets us try, each run by a process of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

sandbox = pytest.importorskip("helpers.instructor.sandbox", reason="the student version has no grader")

if not sys.platform.startswith("linux"):
    pytest.skip("sandboxes are made by Linux", allow_module_level=True)

SOURCE = Path(sandbox.__file__).read_text(encoding="utf-8")
NOBODY = 65534
# Reads a job from its standard input, since not every user may read this project's files.
RUNNER = """
import dataclasses, json, sys, types
job = json.load(sys.stdin)
sandbox = sys.modules["sandbox"] = types.ModuleType("sandbox")
exec(job["source"], vars(sandbox))
def act(scratch, result):
    exec(job["code"], {"scratch": scratch, "result": result})
problem = sandbox._try_degree(job["degree"])
if problem:
    print(json.dumps({"problem": problem}))
else:
    with sandbox.temporary_place(job["degree"]) as place:
        outcome = dataclasses.asdict(sandbox.run(act, place, sandbox.Limits(**job["limits"])))
    print(json.dumps({"problem": ""} | outcome))
"""


@dataclass(frozen=True)
class Setting:
    """A degree of isolation, the Python that asks for it, and the user who does."""

    degree: str
    python: str
    user: int

    def __str__(self) -> str:
        who = "root" if self.user == 0 else "nobody" if self.user == NOBODY else "user"
        return f"{self.degree}-{who}"


def find_settings() -> list[Setting]:
    here = os.getuid()
    system = shutil.which("python3", path="/usr/bin") or sys.executable
    settings = [Setting("namespaces", sys.executable, here), Setting("limits", sys.executable, here)]
    if here == 0:
        settings = [settings[0], Setting("user", system, 0)]
        settings += [Setting(degree, system, NOBODY) for degree in ("namespaces", "limits")]
    return settings


def run(setting: Setting, code: str, **limits: float) -> dict:
    job = {
        "source": SOURCE,
        "code": code,
        "degree": setting.degree,
        "limits": {"seconds": 20, "memory": 2**28} | limits,
    }
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o1777)
    done = subprocess.run(
        [setting.python, "-c", RUNNER],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "SECRET": "x", "TMPDIR": folder},
        **({"user": setting.user, "group": setting.user, "extra_groups": []} if setting.user != os.getuid() else {}),
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert not os.listdir(folder), "a folder was left behind"
    os.rmdir(folder)
    return outcome


@cache
def why_not(setting: Setting) -> str:
    if setting.python != sys.executable and not works_here(setting.python):
        return f"{setting.python} is older than Python 3.10"
    return run(setting, "pass")["problem"]


def works_here(python: str) -> bool:
    script = "import sys; sys.exit(sys.version_info < (3, 10))"
    return subprocess.run([python, "-c", script], capture_output=True).returncode == 0


@pytest.fixture(params=find_settings(), ids=str, scope="module")
def setting(request: pytest.FixtureRequest) -> Setting:
    if reason := why_not(request.param):
        pytest.skip(reason)
    return request.param


# name: (code, limits, how it ends, code of its exit or None for any)
ENDS: dict[str, tuple[str, dict[str, float], str, int | None]] = {
    "by itself": ("pass", {}, "", 0),
    "with an exit code": ("import os; os._exit(7)", {}, "", 7),
    "with an error": ("1 / 0", {}, "", 1),
    "with sys.exit": ("raise SystemExit(3)", {}, "", 3),
    "sleeping": ("import time; time.sleep(60)", {"seconds": 0.7}, "time", None),
    "stopped": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {"seconds": 0.7}, "time", None),
    "too much memory": ("kept = [b'x' * 2**23 for _ in range(200)]", {"memory": 2**27}, "memory", None),
    "memory at once": ("bytearray(20 * 2**30)", {}, "", 1),
    "memory in children": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        kept = b'x' * 2**26\n"
        "        time.sleep(9)\ntime.sleep(9)",
        {"memory": 2**27},
        "memory",
        None,
    ),
    "many processes": (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        time.sleep(9)\ntime.sleep(9)",
        {"processes": 8},
        "processes",
        None,
    ),
    "a fork bomb": ("import os\nwhile True:\n    os.fork()", {"processes": 8}, None, None),
    "too large a result": (
        "import os\nwhile True:\n    os.write(result, b'x' * 2**16)",
        {"result": 2**18},
        "result",
        None,
    ),
    "output for ever": ("import os\nwhile True:\n    os.write(1, b'x' * 2**16)", {"seconds": 0.7}, "time", None),
    "a large file": ("open('x', 'wb').write(bytes(2**26))", {"disk": 2**24}, None, None),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_ends_as_it_should(setting: Setting, name: str) -> None:
    code, limits, reason, exit_code = ENDS[name]
    outcome = run(setting, code, **limits)
    assert reason is None or outcome["reason"] == reason, outcome
    assert exit_code is None or outcome["code"] == exit_code, outcome
    if reason is None:
        assert outcome["reason"] or outcome["code"], outcome
    assert outcome["seconds"] < 15 and len(outcome["output"]) < 2**17


def test_cpu_time_is_limited_and_said(setting: Setting) -> None:
    outcome = run(setting, "while True: pass", cpu_seconds=1)
    limits = sandbox.Limits(cpu_seconds=1)
    outcome = sandbox.Outcome(**{name: value for name, value in outcome.items() if name != "problem"})
    assert "more than 1 s of CPU" in outcome.describe(limits) and outcome.cpu_seconds < 3


def test_the_result_and_the_output_come_back(setting: Setting) -> None:
    outcome = run(setting, "import os; print('said', flush=True); os.write(result, 'é'.encode())")
    assert (outcome["result"], outcome["output"]) == ("é", "said\n")


def test_nothing_stays_behind(setting: Setting) -> None:
    marker = f"{918273 + os.getpid()}"
    code = f"""
import os, subprocess
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{marker}"])
    os._exit(0)
subprocess.Popen(["sleep", "{marker}"], start_new_session=True)
os.makedirs("a/" * 500)
open("a/readable", "w").close()
os.chmod("a", 0)
"""
    assert run(setting, code)["code"] == 0  # `run` looks for what was left behind.
    time.sleep(0.05)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert marker.encode() not in path.read_bytes().split(b"\0")
        except OSError:
            continue


def test_the_code_has_no_privileges(setting: Setting) -> None:
    outcome = run(setting, "print(open('/proc/self/status').read(), flush=True)")
    status = dict(line.split(":", 1) for line in outcome["output"].splitlines() if ":" in line)
    assert status["NoNewPrivs"].strip() == "1" and int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


TRIES = """
import json, os, signal, socket
def works(action):
    try:
        action()
        return True
    except OSError:
        return False
def connect():
    socket.create_connection(("127.0.0.1", {port}), timeout=2).close()
tried = {{
    "read secret": works(lambda: open({secret!r}).read()),
    "write outside": works(lambda: open({marked!r} + "/written", "w").close()),
    "write scratch": works(lambda: open(scratch + "/written", "w").close()),
    "connect": works(connect),
    "kill the parent": works(lambda: os.kill(os.getppid(), 0 if os.getppid() > 1 else signal.SIGKILL)),
    "see the parent's memory": works(lambda: open(f"/proc/{{os.getppid()}}/mem", "rb")),
}}
os.write(result, json.dumps(tried).encode())
"""


def test_what_each_degree_keeps_from_the_code(setting: Setting) -> None:
    private = Path(tempfile.mkdtemp())
    try:
        (private / "secret").write_text("x")
        (private / "marked").mkdir()
        os.chmod(private / "marked", 0o777)
        if setting.user != os.getuid():
            os.chown(private, setting.user, setting.user)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            places = {"secret": str(private / "secret"), "marked": str(private / "marked")}
            outcome = run(setting, TRIES.format(port=listener.getsockname()[1], **places))
        tried = json.loads(outcome["result"])
        kept = {"limits": set(), "user": {"read secret", "write outside", "kill the parent", "see the parent's memory"}}
        kept["namespaces"] = kept["user"] | {"connect"}
        if setting.degree == "namespaces":  # The signal may be sent, but the namespace's first process gets none.
            tried["kill the parent"] = False
        assert {name for name, worked in tried.items() if not worked} == kept[setting.degree]
        in_force, *not_in_force = sandbox.describe_degree(setting.degree)
        assert ("no network" in in_force) is ("connect" in kept[setting.degree])
        assert bool(not_in_force) is (setting.degree != "namespaces")
    finally:
        shutil.rmtree(private)


@pytest.mark.skipif(os.getuid() != 0, reason="only root could do harm so")
def test_root_never_runs_code_with_limits_alone() -> None:
    with pytest.raises(OSError, match="ordinary user"):
        sandbox.find_degree("limits")


def test_the_best_degree_that_works_is_taken_and_the_others_are_explained(monkeypatch) -> None:
    answers = {"namespaces": "the kernel says no", "user": "not root", "limits": ""}
    monkeypatch.setattr(sandbox, "_try_degree", answers.__getitem__)
    degree, (first, second) = sandbox.find_degree()
    assert degree == "limits" and "the kernel says no" in first and "not root" in second
    with pytest.raises(OSError, match="the kernel says no"):
        sandbox.find_degree("namespaces")


def test_descendants_are_found_where_the_kernel_lists_no_children() -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        assert child.pid in sandbox._all_children()[os.getpid()]
        assert child.pid in sandbox.list_tree(os.getpid())
    finally:
        child.kill()
        child.wait()


def test_the_environment_of_untrusted_code_has_nothing_of_ours(monkeypatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret-value")
    monkeypatch.setenv("COURSE_DATA", "secret-value")
    environment = sandbox.clean_environment("/scratch", PYTHONPATH="/course")
    assert "secret-value" not in str(environment) and environment["HOME"] == "/scratch"


def test_no_path_is_bound_twice(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    needed = sandbox.needed_paths((str(tmp_path), str(inner), "/no/such/path"))
    assert str(tmp_path) in needed and str(inner) not in needed and "/no/such/path" not in needed and "/" not in needed
