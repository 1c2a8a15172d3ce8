"""The sandbox in every degree of isolation, as root and as an ordinary user, each run by a process of its own."""

import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from conftest import ROOT, wait_until

from instructor import limits, sandbox, worlds

if not sys.platform.startswith("linux"):
    pytest.skip("sandboxes are made by Linux", allow_module_level=True)

NOBODY = 65534
PARTS = ("__init__", "sandbox", "limits", "worlds", "groups")
# What a grader does, as a user who may not be able to read this project: it runs from a copy.
GRADER = """
import dataclasses, json, sys
from instructor import groups, sandbox
job = json.load(sys.stdin)
problem, outcome = "" if job["code"] else sandbox.try_degree(job["degree"]), {}
if job["code"]:
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
        shutil.copy(ROOT / "instructor" / f"{part}.py", f"{folder}/instructor")
    shutil.copytree(Path(psutil.__file__).parent, f"{folder}/psutil", ignore=shutil.ignore_patterns("tests"))
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return folder


def run(setting: Setting, code: str, hidden: tuple[str, ...] = (), **bounds: float) -> dict:
    bounds = {"seconds": 20, "memory": 2**28} | bounds
    job = {"code": code, "degree": setting.degree, "limits": bounds, "hidden": hidden}
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o1777)
    os.mkdir(f"{folder}/open")
    os.chmod(f"{folder}/open", 0o1777)
    os.symlink(folder, link := f"{folder}-link")
    other = {"user": setting.user, "group": setting.user, "extra_groups": []} if setting.user != os.getuid() else {}
    done = subprocess.run(
        [setting.python, "-c", GRADER],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "SECRET": "x", "TMPDIR": link, "PYTHONPATH": copy_parts()},
        **other,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == ["open"] and not os.listdir(f"{folder}/open"), "a file or folder was left behind"
    shutil.rmtree(folder)
    os.remove(link)
    return json.loads(done.stdout)


@cache
def why_not(setting: Setting) -> str:
    script = "import sys; sys.exit(sys.version_info < (3, 10))"
    if subprocess.run([setting.python, "-c", script], capture_output=True).returncode:
        return f"{setting.python} is older than Python 3.10"
    return run(setting, "")["problem"]


@pytest.fixture(scope="module", autouse=True)
def without_copy() -> Iterator[None]:
    yield
    shutil.rmtree(copy_parts())
    copy_parts.cache_clear()  # Other tests of this file may follow in this process.


@pytest.fixture(params=find_settings(), ids=str, scope="module")
def setting(request: pytest.FixtureRequest) -> Setting:
    if reason := why_not(request.param):
        pytest.skip(reason)
    return request.param


FORKS = "import os, time\nfor _ in range({}):\n    if os.fork() == 0:\n        {}\ntime.sleep(14)"
SPIN = "while True: pass"
ONE_AFTER_THE_OTHER = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # No CPU of theirs is added to their parent's.
while True:
    if os.fork() == 0:
        while time.process_time() < 0.3: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
"""
SYSTEM_V = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for _ in range({}):
    number = libc.shmget({}, 2**24, 0o1666)
    address = libc.shmat(number, None, 0)
    ctypes.memset(address, 1, 2**24)
    libc.shmdt(ctypes.c_void_p(address))
time.sleep(1)
"""
SOCKETS = """
import socket, time
kept = []
for _ in range(450):
    pair = socket.socketpair()
    pair[0].setblocking(False)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
    kept.append(pair)
    try:
        while True: pair[0].send(bytes(2**16))
    except BlockingIOError:
        pass
time.sleep(1)
"""
# name: (code, limits, how it ends, code of its exit or None for any)
ENDS: dict[str, tuple[str, dict[str, float], str | None, int | None]] = {
    "by itself": ("pass", {}, "", 0),
    **{f"with {code}": (f"import os; os._exit({code})", {}, "", code) for code in (97, 126)},
    "halted": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP); os._exit(5)", {"seconds": 9}, "", 5),
    "too much memory": ("kept = [b'x' * 2**23 for _ in range(200)]", {"memory": 2**27}, "memory", None),
    "memory at once": ("bytearray(20 * 2**30)", {}, "", 1),
    "memory in children": (FORKS.format(4, "kept = b'x' * 2**26; time.sleep(9)"), {"memory": 2**27}, "memory", None),
    "memory without a name": (
        "import os, time\nfile = os.memfd_create('x')\nfor _ in range(20): os.write(file, b'x' * 2**24)\ntime.sleep(1)",
        {"memory": 2**27},
        None,
        None,
    ),
    "a fork bomb": ("import os\nwhile True:\n    os.fork()", {"processes": 8}, None, None),
    "60 that spin": (FORKS.format(60, SPIN), {"cpu_seconds": 1, "processes": 64}, "cpu", None),
    "each for a moment": (ONE_AFTER_THE_OTHER, {"cpu_seconds": 1}, "cpu", None),
    "too large a result": ("import os\nwhile True: os.write(3, b'x' * 2**16)", {"result": 2**18}, "result", None),
    "output for ever": ("import os\nwhile True: os.write(1, b'x' * 2**16)", {"seconds": 0.7}, "time", None),
    "a large file": ("open('x', 'wb').write(bytes(2**26))", {"disk": 2**24}, None, None),
    "many files": (
        "import time\nfor n in range(3000): open(f'{n}', 'w').close()\ntime.sleep(3)",
        {"files": 500},
        "disk",
        None,
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_ends_as_it_should(setting: Setting, name: str) -> None:
    code, limits, reason, exit_code = ENDS[name]
    started = time.monotonic()
    outcome = run(setting, code, **limits)
    assert time.monotonic() < started + 60
    assert reason is None or outcome["reason"] == reason, outcome
    assert exit_code is None or outcome["code"] == exit_code, outcome
    if reason is None:
        assert outcome["reason"] or outcome["code"], outcome
    assert outcome["cpu_seconds"] < 8 and len(outcome["output"]) < 2**17


def test_shared_memory_counts_where_pages_cannot_be_looked_at(monkeypatch) -> None:
    before = limits.measure_share(psutil.Process())
    monkeypatch.setattr(psutil.Process, "memory_full_info", Mock(side_effect=psutil.AccessDenied))
    with mmap.mmap(-1, 2**26) as shared:
        shared.write(bytes(2**26))
        assert 2**26 < limits.measure_share(psutil.Process()) < before + 2**27


@pytest.mark.parametrize("code", [SYSTEM_V.format(20, 0), SOCKETS], ids=["detached System V memory", "socket buffers"])
def test_a_control_group_sees_memory_that_no_process_has(setting: Setting, code: str) -> None:
    outcome = run(setting, code, memory=2**27)
    if not outcome["group"]:
        pytest.skip("no control group can be made here, which the sheet says")
    refused = ("Cannot allocate memory", "No buffer space available")
    silent = outcome["code"] == 120  # There was no room to say so either: what Python's exit makes of a lost output.
    assert outcome["reason"] == "memory" or silent or any(said in outcome["output"] for said in refused), outcome


def test_files_that_are_removed_but_open_count_and_die(setting: Setting) -> None:
    code = "import os, time\nfile = open('x', 'wb')\nos.unlink('x')\nfor _ in range(9): file.write(bytes(2**24))\n"
    outcome = run(setting, code + "file.flush()\ntime.sleep(3)", disk=2**26)
    assert outcome["reason"] == "disk" or "OSError" in outcome["output"], outcome  # Full, or too large.


# `run` looks in the code's own folders for what is left.
KEPT = """
import ctypes, glob, os
for folder in ("/tmp", "/var/tmp", "/dev/shm", os.environ["HOME"], os.environ["HOME"] + "/../..",
               os.environ["HOME"] + "/../../open"):
    try:
        os.makedirs(f"{folder}/MARK/a/" + "b/" * 300)
        open(f"{folder}/MARK.txt", "w").write("x")
        os.chmod(f"{folder}/MARK", 0)
    except OSError:
        pass
libc = ctypes.CDLL(None)
for key, mode in ((KEY, 0o1666), (-KEY, 0o1000)):
    made = [libc.shmget(key, 4096, mode), libc.semget(key, 1, mode), libc.msgget(key, mode)]
found = ctypes.CDLL("librt.so.1").mq_open(b"/MARK", 0o100 | 2, 0o666, None)
print(made, found)
"""
LOOKED_FOR = """
import ctypes, glob, os
libc = ctypes.CDLL(None)
found = [path for folder in ("tmp", "var/tmp", "dev/shm") for path in glob.glob(f"/{folder}/MARK*")]
print("found", found, [libc.shmget(KEY, 4096, 0), libc.semget(KEY, 1, 0), libc.msgget(KEY, 0)])
"""


def test_the_next_run_finds_nothing_of_the_one_before(setting: Setting) -> None:
    key = {"MARK": f"mark-{os.getpid()}", "KEY": str(700_000 + os.getpid())}
    made, looked = KEPT, LOOKED_FOR
    for word, value in key.items():
        made, looked = made.replace(word, value), looked.replace(word, value)
    assert run(setting, made)["code"] == 0
    assert run(setting, looked)["output"] == "found [] [-1, -1, -1]\n"
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        assert not [name for name in os.listdir(folder) if name.startswith(key["MARK"])]
    for kind in ("shm", "sem", "msg"):
        assert not {key["KEY"], f"-{key['KEY']}"} & {*Path(f"/proc/sysvipc/{kind}").read_text().split()}


def test_nothing_is_left_running(setting: Setting) -> None:
    marker = f"{918273 + os.getpid()}"
    code = f"""
import os, subprocess
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{marker}"])
    os._exit(0)
subprocess.Popen(["sleep", "{marker}"], start_new_session=True)
"""
    assert run(setting, code)["code"] == 0
    for process in psutil.process_iter(["cmdline"]):
        assert marker not in (process.info["cmdline"] or [])


def test_with_the_grader_everything_ends() -> None:
    marker = f"{818273 + os.getpid()}"
    code = f"from instructor import sandbox; sandbox.run(['sleep', '{marker}'])"
    if sandbox.try_degree("namespaces"):
        pytest.skip(sandbox.try_degree("namespaces"))
    environment = os.environ | {"PYTHONPATH": copy_parts()}

    def sleeping() -> bool:
        return any(process.info["cmdline"] == ["sleep", marker] for process in psutil.process_iter(["cmdline"]))

    with subprocess.Popen([sys.executable, "-c", code], env=environment) as grader:
        assert wait_until(sleeping)
        grader.kill()
    assert wait_until(lambda: not sleeping(), 10)


def test_the_code_has_no_privileges_and_gets_none(setting: Setting) -> None:
    code = "print(open('/proc/self/status').read(), flush=True)\nimport os\nos.system('unshare -U true')"
    outcome = run(setting, code)
    status = dict(line.split(":", 1) for line in outcome["output"].splitlines() if ":" in line)
    assert status["NoNewPrivs"].strip() == "1" and int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert "unshare failed" in outcome["output"] or setting.degree == "user"
    assert status["Uid"].split()[0] not in ("0", str(os.getuid()))


def test_process_1_outlives_what_is_sent_to_it(setting: Setting) -> None:
    code = (
        "import os\nif os.fork() == 0:\n    try: os.kill(os.getppid(), 9)\n    finally: os._exit(0)\n"
        "os.wait()\nprint('alive ✓')"
    )
    outcome = run(setting, code)
    assert outcome["output"] == ("alive ✓\n" if setting.degree == "namespaces" else ""), outcome


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
    "see the grader's variables": "SECRET" in os.environ,
    "read secret": works(lambda: open({secret!r}).read()),
    "write outside": works(lambda: open({marked!r} + "/written", "w").close()),
    "write scratch": works(lambda: open(os.environ["HOME"] + "/written", "w").close()),
    "connect": works(connect),
    "write hidden": works(lambda: open({hidden!r} + "/written", "w").close()),
    "list hidden": works(lambda: open({hidden!r} + "/os.py").close()),
    "see the parent's memory": works(lambda: open(f"/proc/{{os.getppid() or 'none'}}/mem", "rb")),
}}
os.write(3, json.dumps(tried).encode())
"""


def test_what_each_degree_keeps_from_the_code(setting: Setting) -> None:
    private = Path(tempfile.mkdtemp())
    library = subprocess.run([setting.python, "-c", "import os; print(os.__file__)"], capture_output=True, text=True)
    hidden = f"{os.path.dirname(library.stdout.strip())}/turtledemo"
    hidden = hidden if os.path.isdir(hidden) else "/usr/share/doc"
    try:
        (private / "secret").write_text("x")
        (private / "marked").mkdir()
        os.chmod(private / "marked", 0o777)
        if setting.user != os.getuid():
            os.chown(private, setting.user, setting.user)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            places = {"secret": str(private / "secret"), "marked": str(private / "marked"), "hidden": hidden}
            outcome = run(setting, TRIES.format(port=listener.getsockname()[1], **places), (hidden,))
        tried = json.loads(outcome["result"])
        kept = {name for name, worked in tried.items() if not worked}
        always = {"see the grader's variables", "read secret", "write outside", "see the parent's memory"}
        always |= {"write hidden", "list hidden"}
        assert kept == always | ({"connect"} if setting.degree == "namespaces" else set())
        in_force, *not_in_force = sandbox.DEGREES[setting.degree]
        assert ("no network" in in_force) is ("connect" in kept)
        assert bool(not_in_force) is (setting.degree != "namespaces")
    finally:
        shutil.rmtree(private)


def test_what_lies_behind_a_link_is_not_put_there_twice(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "python-3.11.7/bin").mkdir(parents=True)
    (tmp_path / "python-3.11").symlink_to(tmp_path / "python-3.11.7")  # as uv makes it; bwrap makes no folder below it
    (tmp_path / "home").symlink_to(tmp_path)
    names = ("python-3.11", "python-3.11.7", "home/python-3.11.7", "python-3.11/bin")
    folders = [str(tmp_path / name) for name in names]
    monkeypatch.setattr(worlds, "list_python", lambda: folders)
    shown = worlds.describe_world((), (f"{folders[1]}/bin",), 2**20)
    assert [word in shown for word in folders] == [True, True, True, False]
    assert f"{folders[1]}/bin" in shown and f"{folders[2]}/bin" in shown, "hidden under one name only"


def test_the_best_degree_that_works_is_taken_and_the_others_are_explained(monkeypatch) -> None:
    answers = {"namespaces": "the kernel says no", "user": ""}
    monkeypatch.setattr(sandbox, "try_degree", answers.__getitem__)
    monkeypatch.setattr(sandbox.groups, "find_problem", lambda: "read-only")
    degree, (*known, refused, missing) = sandbox.find_degree()
    assert degree == "user" and known == sandbox.DEGREES["user"]
    assert "the kernel says no" in refused and "no control group" in missing
    with pytest.raises(OSError, match="the kernel says no"):
        sandbox.find_degree("namespaces")


def test_a_missing_bubblewrap_is_named_with_the_way_to_get_it(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    with pytest.raises(OSError, match="apt install bubblewrap"):
        sandbox.run(["true"])
