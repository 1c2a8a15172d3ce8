"""Run untrusted code apart from everything else, within limits, on Linux, without anything to install.

Three degrees of isolation, the best of those that work being taken:

`namespaces`  A root folder of its own with nothing in it but system, Python and what is named readable, all read-only;
              a scratch folder in memory; no network; processes of its own that end together; an unprivileged user.
`user`        For root only, where the kernel refuses namespaces: an unprivileged user of its own, but files that
              everybody may read can be read, and the network is there.
`limits`      For other users: the limits below, and nothing else is kept from the code.

Limits hold in every degree. Memory, processes and disk are watched for the whole tree of processes.
"""

import collections
import contextlib
import ctypes
import json
import os
import platform
import pwd
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

DEGREES = ("namespaces", "user", "limits")
INSIDE_USER = 1000
SCRATCH = "/scratch"  # The scratch folder where namespaces are to be had; elsewhere it is a temporary folder.
MEBI = 2**20
# What a Python process needs of the system; what is absent is left out.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys/devices/system/cpu"),
    *(f"/etc/{name}" for name in ("alternatives", "fonts", "group", "hosts", "ld.so.cache", "ld.so.conf")),
    *(f"/etc/{name}" for name in ("ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "os-release", "passwd")),
)
SETUP_FAILED = 97
HELPERS = {"namespaces": 2, "user": 0, "limits": 0}  # Processes of the sandbox itself, the first ones of its tree.
# From the kernel's headers.
NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH, HERE, TREE, MOUNT_SETATTR = 2, -100, 0x8000, 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SET_PARENT_DEATH, SET_DUMPABLE, DROP_FROM_BOUND, SET_REAPER, SET_NO_NEW_PRIVILEGES = 1, 4, 24, 36, 38


@dataclass(frozen=True)
class Limits:
    """What one run may use; memory, processes and disk are those of all its processes together."""

    seconds: float = 150.0
    cpu_seconds: int = 60
    memory: int = 3072 * MEBI
    processes: int = 64
    disk: int = 512 * MEBI
    files: int = 20_000
    output: int = 64 * 1024
    result: int = 16 * MEBI

    def __str__(self) -> str:
        return (
            f"{self.seconds:g} s, {self.cpu_seconds} s of CPU a process, {self.memory // MEBI} MiB of memory,"
            f" {self.processes} processes, {self.disk // MEBI} MiB of disk"
        )


@dataclass
class Outcome:
    """How a run ended: `reason` names the limit it broke, and is empty where it ended by itself with `code`."""

    code: int = 0
    reason: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    output: str = ""
    result: str = ""

    def describe(self, limits: Limits) -> str:
        """Say in one sentence how it ended."""
        broken = {
            "time": f"it did not come to an end within {limits.seconds:g} s",
            "memory": f"it took more than {limits.memory // MEBI} MiB of memory",
            "processes": f"it started more than {limits.processes} processes",
            "disk": f"it wrote more than {limits.disk // MEBI} MiB or {limits.files:,} files",
            "result": f"it returned more than {limits.result // MEBI} MiB",
            "sandbox": f"the sandbox could not be set up ({self.output.strip()[-300:]})",
        }
        if self.reason:
            return f"stopped: {broken[self.reason]}."
        if self.code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return f"stopped: it took more than {limits.cpu_seconds} s of CPU."
        if self.code < 0 or self.code > 128:
            number = -self.code if self.code < 0 else self.code - 128
            return f"its process was killed by signal {number}."
        return f"its process ended with exit code {self.code}."


@dataclass(frozen=True)
class Place:
    """Where code runs: the degree of isolation, the paths it may read, and an empty folder to build the rest in."""

    degree: str
    base: str
    readable: tuple[str, ...] = ()
    user: int = field(default_factory=lambda: pick_user())

    @property
    def scratch(self) -> str:
        return SCRATCH if self.degree == "namespaces" else f"{self.base}/scratch"


def run(action: Callable[[str, int], None], place: Place, limits: Limits = Limits()) -> Outcome:  # noqa: B008
    """Run `action(scratch folder, file descriptor for its result)` in a sandbox; call it from any process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            try:
                outcome = supervise(action, place, limits)
            except BaseException as error:
                outcome = Outcome(reason="sandbox", output=f"{type(error).__name__}: {error}")
            json.dump(asdict(outcome), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return Outcome(**json.loads(text)) if text else Outcome(reason="sandbox", output="its supervisor was killed")


def supervise(action: Callable[[str, int], None], place: Place, limits: Limits) -> Outcome:
    """Run the action, watch it, end it, and clean up; this process must have no other children."""
    # Whatever loses its parent becomes this process's child, so nothing gets out of sight.
    _prctl(SET_REAPER, 1)
    _prctl(SET_PARENT_DEATH, signal.SIGKILL)
    if place.degree != "namespaces":
        os.makedirs(f"{place.scratch}/tmp")
        if place.degree == "user":
            for folder in (place.scratch, f"{place.scratch}/tmp"):
                os.chown(folder, place.user, place.user)
                os.chmod(folder, 0o700)
    started = time.monotonic()
    pipes = {"output": os.pipe(), "result": os.pipe(), "ready": os.pipe(), "go": os.pipe()}
    child = os.fork()
    if child == 0:
        _become_child(action, place, limits, pipes)
    ends = {"output": pipes["output"][0], "result": pipes["result"][0]}
    for end in (pipes["output"][1], pipes["result"][1], pipes["ready"][1], pipes["go"][0]):
        os.close(end)
    if os.read(pipes["ready"][0], 1):
        if place.degree == "namespaces":
            _write_user_maps(child, place.user)
        os.close(pipes["go"][1])
    outcome = _watch(child, ends, place, limits, started)
    _kill_everything(place)
    _reap()
    if outcome.code == SETUP_FAILED and not outcome.reason:
        outcome.reason = "sandbox"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome.cpu_seconds = round(max(outcome.cpu_seconds, used.ru_utime + used.ru_stime), 2)
    outcome.seconds = round(time.monotonic() - started, 2)
    if place.degree != "namespaces":
        remove_tree(place.scratch)
    if place.degree == "user":
        _remove_left_behind(place.user)
    return outcome


def _become_child(action: Callable, place: Place, limits: Limits, pipes: dict[str, tuple[int, int]]) -> None:
    """The sandbox's first process: never returns."""
    try:
        os.setsid()
        _prctl(SET_PARENT_DEATH, signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number in (1, 2):
            os.dup2(pipes["output"][1], number)
        for name, default in (("SIGINT", signal.SIG_DFL), ("SIGTERM", signal.SIG_DFL), ("SIGCHLD", signal.SIG_DFL)):
            signal.signal(getattr(signal, name), default)
        ready, go, result = pipes["ready"][1], pipes["go"][0], 3
        if place.degree == "namespaces":
            _libc("unshare", NEW_NAMESPACES)
        os.write(ready, b"1")
        os.close(pipes["go"][1])
        os.read(go, 1)  # Until the parent has closed its end.
        moved = os.dup(pipes["result"][1])
        while moved <= result:
            moved = os.dup(moved)
        os.dup2(moved, result, inheritable=True)
        os.closerange(result + 1, 4096)
        if place.degree == "namespaces":
            _continue_as_init(place, limits)
        os.umask(0o022)
        os.chdir(place.scratch)
        _limit(limits, place)
        _drop_privileges(place)
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(SETUP_FAILED)
    code = 1
    try:
        action(place.scratch, result)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code & 0xFF if code is not None else 0)


def _continue_as_init(place: Place, limits: Limits) -> None:
    """Return in a process whose whole world is the sandbox; its parents only wait."""
    pid = os.fork()
    if pid:
        _exit_like(pid)
    _prctl(SET_PARENT_DEATH, signal.SIGKILL)
    _build_root(place, limits)
    pid = os.fork()
    if pid:
        # Process 1 of the namespace: adopts orphans, and takes all of them along when it ends.
        os.closerange(3, 16)
        _exit_like(pid)


def _exit_like(pid: int) -> None:
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except InterruptedError:
            continue
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _write_user_maps(child: int, user: int) -> None:
    """Inside, 0 builds the root folder and 1000 runs the code; outside, 1000 is a user that nobody is."""
    root = os.geteuid() == 0
    folder = Path(f"/proc/{child}")
    lines = [f"0 {os.geteuid()} 1"] + [f"{INSIDE_USER} {user} 1"] * root
    if not root:
        (folder / "setgroups").write_text("deny")
    (folder / "uid_map").write_text("\n".join(lines))
    lines = [f"0 {os.getegid()} 1"] + [f"{INSIDE_USER} {user} 1"] * root
    (folder / "gid_map").write_text("\n".join(lines))


def _build_root(place: Place, limits: Limits) -> None:
    root, user = place.base, INSIDE_USER if _has_user_inside() else 0
    _mount("none", "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEV, "size=8m,mode=755")
    for folder, size, mode in (("/tmp", 64 * MEBI, 0o1777), ("/dev/shm", 64 * MEBI, 0o1777), (SCRATCH, limits.disk, 0)):
        os.makedirs(root + folder)
        options = f"size={size},nr_inodes={limits.files},mode={mode or 0o700:o}"
        _mount("tmpfs", root + folder, "tmpfs", NO_SUID | NO_DEV, options)
    os.mkdir(f"{root}{SCRATCH}/tmp")
    for folder in (f"{root}{SCRATCH}/tmp", root + SCRATCH):
        os.chown(folder, user, user)
    for name in ("null", "zero", "full", "random", "urandom"):
        _bind(f"/dev/{name}", root)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"{root}/dev/{name}")
    for path in needed_paths(place.readable):
        _bind(path, root)
        if not os.path.islink(path):
            _make_read_only(root + path)
    os.mkdir(f"{root}/proc")
    _mount("proc", f"{root}/proc", "proc", NO_SUID | NO_DEV | NO_EXEC)
    with contextlib.suppress(OSError):
        Path(f"{root}/proc/sys/user/max_user_namespaces").write_text("0")
    _raise_loopback()
    os.chdir(root)
    _libc("syscall", ctypes.c_long(PIVOT_ROOT[platform.machine()]), b".", b".")
    _libc("umount2", b".", DETACH)
    os.chdir("/")
    _mount("none", "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)


def needed_paths(readable: tuple[str, ...]) -> list[str]:
    """The system, the Python environment and what is named readable, without what lies in another of them."""
    packages = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    wanted = [*SYSTEM, sys.base_prefix, sys.prefix, *packages, *readable]
    wanted = sorted({os.path.abspath(path) for path in wanted if os.path.lexists(path)}, key=lambda path: len(path))
    kept: list[str] = []
    for path in wanted:
        if path != "/" and not any(path == other or path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def _bind(path: str, root: str) -> None:
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        Path(target).touch()
    _mount(path, target, None, BIND | RECURSIVE)


def _make_read_only(path: str) -> None:
    attributes = struct.pack("QQQQ", READ_ONLY | NO_SUID, 0, 0, 0)
    try:
        size = ctypes.c_size_t(len(attributes))
        _libc("syscall", ctypes.c_long(MOUNT_SETATTR), HERE, path.encode(), TREE, attributes, size)
    except OSError:  # Kernels before 5.12: the mount itself, without those below it.
        kept = os.statvfs(path).f_flag & (NO_SUID | NO_DEV | NO_EXEC)
        _mount("none", path, None, REMOUNT | BIND | READ_ONLY | NO_SUID | kept)


def _raise_loopback() -> None:
    """Jupyter's kernels talk over the loopback device; no other network device is there."""
    import fcntl

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        name = b"lo".ljust(16, b"\0")
        flags = struct.unpack("16xH", fcntl.ioctl(device, 0x8913, name + bytes(16))[:18])[0]
        fcntl.ioctl(device, 0x8914, name + struct.pack("H14x", flags | 1))


def _limit(limits: Limits, place: Place) -> None:
    tasks = 4 * limits.processes  # Threads count, too; processes are counted by the watch.
    if os.getuid() == 0 and not _has_user_inside() or place.degree == "limits":
        tasks += _count_tasks(os.getuid())  # The grader's own user, whose other processes count, too.
    for name, value in (
        ("RLIMIT_CPU", limits.cpu_seconds),
        ("RLIMIT_AS", max(2 * limits.memory, 4096 * MEBI) + 4096 * MEBI),
        ("RLIMIT_FSIZE", limits.disk),
        ("RLIMIT_NPROC", tasks),
        ("RLIMIT_NOFILE", 1024),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_MEMLOCK", MEBI),
    ):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        # A second more before the hard end of CPU time, so that the signal of the soft one says what it was.
        most = value + (name == "RLIMIT_CPU")
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (min(value, most), most))


def _count_tasks(user: int) -> int:
    count = 0
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == user:
                count += len(os.listdir(folder / "task"))
    return count


def _drop_privileges(place: Place) -> None:
    _prctl(SET_NO_NEW_PRIVILEGES, 1)
    if os.geteuid() == 0:
        for capability in range(64):
            with contextlib.suppress(OSError):
                _prctl(DROP_FROM_BOUND, capability)
        user = INSIDE_USER if place.degree == "namespaces" else place.user
        if place.degree == "user" or _has_user_inside():
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _libc("capset", header, none)
    _prctl(SET_DUMPABLE, 1)
    _prctl(SET_PARENT_DEATH, signal.SIGKILL)


def _has_user_inside() -> bool:
    """Only root may map a second user into a namespace."""
    return len(Path("/proc/self/uid_map").read_text().splitlines()) > 1


def _watch(child: int, ends: dict[str, int], place: Place, limits: Limits, started: float) -> Outcome:
    """Read both pipes to their limits and look after the processes, until the first of them has ended."""
    outcome, kept = Outcome(), {name: bytearray() for name in ends}
    poll = select.poll()
    names = {end: name for name, end in ends.items()}
    for end in ends.values():
        poll.register(end, select.POLLIN)
    next_look = next_disk = next_measure = 0.0
    ended = False
    while not outcome.reason:
        for end, event in poll.poll(20):
            data = os.read(end, 65536) if event & (select.POLLIN | select.POLLHUP) else b""
            if not data:
                poll.unregister(end)
            _keep(kept[names[end]], data, names[end], limits, outcome)
        if ended:
            break
        now = time.monotonic()
        if now >= next_look:
            next_look = now + 0.05
            processes = list_tree(os.getpid())[HELPERS[place.degree] :]
            in_files = _used_in_memory_files(processes) if place.degree == "namespaces" else 0
            if now >= next_measure or sum(map(_resident, processes)) + in_files > limits.memory:
                next_measure = now + 0.2
                # Pages that processes share are counted once; that takes longer to find out.
                memory = sum(map(_proportional, processes)) + in_files
                outcome.peak_memory = max(outcome.peak_memory, memory)
                if memory > limits.memory:
                    outcome.reason = "memory"
            if len(processes) > limits.processes:
                outcome.reason = "processes"
            if now - started > limits.seconds:
                outcome.reason = "time"
        if place.degree != "namespaces" and now >= next_disk:
            next_disk = now + 0.5
            if not _is_small(place.scratch, limits):
                outcome.reason = "disk"
        status = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is not None:
            ended = True  # Once more round the loop, for what is left in the pipes.
            killed = status.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
            outcome.code = -status.si_status if killed else status.si_status
    for end in ends.values():
        os.close(end)
    outcome.output = kept["output"].decode("utf-8", "replace")
    outcome.result = kept["result"].decode("utf-8", "replace")
    return outcome


def _keep(kept: bytearray, data: bytes, name: str, limits: Limits, outcome: Outcome) -> None:
    """Keep all of a result, and of other output the first and the last part."""
    kept += data
    if name == "result":
        if len(kept) > limits.result:
            outcome.reason = "result"
    elif len(kept) > limits.output + 16:
        half = limits.output // 2
        kept[:] = kept[:half] + b"\n[...]\n" + kept[-half:]


def list_tree(pid: int) -> list[int]:
    """All descendants of a process, zombies among them, parents before their children."""
    children = _children if os.path.exists(f"/proc/{pid}/task/{pid}/children") else _all_children().__getitem__
    found = [pid]
    for parent in found:
        found += children(parent)
    return found[1:]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _all_children() -> dict[int, list[int]]:
    """Every process's children, for kernels that do not list them."""
    children: dict[int, list[int]] = collections.defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(name))
    return children


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return _resident(pid)
    return 0


def _used_in_memory_files(processes: list[int]) -> int:
    """What the folders in memory hold, looked at through a process that sees them."""
    for pid in reversed(processes):
        used = 0
        try:
            for folder in (SCRATCH, "/tmp", "/dev/shm"):
                space = os.statvfs(f"/proc/{pid}/root{folder}")
                if space.f_blocks * space.f_frsize > 2**40:  # Not the sandbox's own: it is still being built.
                    return 0
                used += (space.f_blocks - space.f_bfree) * space.f_frsize
            return used
        except OSError:
            continue
    return 0


def _is_small(folder: str, limits: Limits) -> bool:
    files = size = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    with contextlib.suppress(OSError):
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if files > limits.files or size > limits.disk:
                        return False
        except OSError:
            continue
    return True


def _kill_everything(place: Place) -> None:
    """End every process of the sandbox, however it hides."""
    if place.degree == "user":
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.setresgid(place.user, place.user, place.user)
                os.setresuid(place.user, place.user, place.user)
                os.kill(-1, signal.SIGKILL)  # All of this user, at once: nothing can fork its way out.
            os._exit(0)
        os.waitpid(pid, 0)
    for attempt in range(200):
        processes = [pid for pid in list_tree(os.getpid()) if not _is_zombie(pid)]
        if not processes:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL) if attempt else (signal.SIGKILL,):
            for pid in processes:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        time.sleep(0.005 if attempt < 20 else 0.05)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def _reap() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return


def _remove_left_behind(user: int) -> None:
    """Files of the sandbox's user in the folders where everybody may write."""
    for folder in {"/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir()}:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_uid == user:
                    remove_tree(entry.path)


def remove_tree(path: str) -> None:
    """Remove a folder, however deep it is and whatever its permissions are."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    subprocess.run(["rm", "-rf", "--", path], **quiet)
    if os.path.lexists(path):
        subprocess.run(["chmod", "-R", "u+rwX", "--", path], **quiet)
        subprocess.run(["rm", "-rf", "--", path], **quiet)


def clean_environment(scratch: str, **more: str) -> dict[str, str]:
    """The whole environment of untrusted code: nothing of the grader's own gets into it."""
    return {
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": scratch,
        "TMPDIR": f"{scratch}/tmp",
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COURSE_PROFILE": "quick",
        "COURSE_BUILD": f"{scratch}/build",
    } | more


def pick_user() -> int:
    """The number of a user that nobody is, another one for every process that asks."""
    for number in range(50_000 + os.getpid() % 9_000, 60_000):
        try:
            pwd.getpwuid(number)
        except KeyError:
            return number
    raise OSError("every user number from 50000 to 59999 is taken")


def find_degree(wanted: str = "auto") -> tuple[str, list[str]]:
    """The best degree of isolation that works here, or the wanted one; and why better ones do not.

    Raises OSError where none works.
    """
    reasons = []
    for degree in DEGREES if wanted == "auto" else (wanted,):
        problem = _try_degree(degree)
        if not problem:
            return degree, reasons
        reasons.append(f"{degree}: does not work here: {problem}" if wanted == "auto" else f"{degree}: {problem}")
    raise OSError("; ".join(reasons))


@cache
def _try_degree(degree: str) -> str:
    """Run something harmless in a degree of isolation; returns what is wrong with it."""
    if degree == "user" and os.geteuid() != 0:
        return "only root can do that"
    if degree == "limits" and os.geteuid() == 0:
        return "root's own processes would be within its reach; grade as an ordinary user"
    if degree == "namespaces" and platform.machine() not in PIVOT_ROOT:
        return f"not written for {platform.machine()}"
    with temporary_place(degree) as place:
        outcome = run(_prove, place, Limits(seconds=30, memory=512 * MEBI))
    if outcome.code or outcome.reason:
        return (outcome.output.strip() or outcome.describe(Limits())).splitlines()[-1][:200]
    return ""


def _prove(scratch: str, result: int) -> None:
    """What every sandbox must be able to do: start this Python, and write to its scratch folder."""
    Path(scratch, "written").write_text("x")
    os.write(result, b"x")
    script = "import ctypes, json, ssl, sqlite3"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=clean_environment(scratch))
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise OSError(f"{sys.executable} does not run there: {last}")


@contextlib.contextmanager
def temporary_place(degree: str, *readable: str) -> Iterator[Place]:
    base = tempfile.mkdtemp(prefix="sandbox-")
    os.chmod(base, 0o755)
    try:
        yield Place(degree, base, tuple(map(str, readable)))
    finally:
        remove_tree(base)


def describe_degree(degree: str) -> list[str]:
    """What holds, and what does not, for people who read a score sheet."""
    common = "limits of time, CPU, memory, processes, disk and output; a clean environment; a fresh folder for each run"
    return {
        "namespaces": [
            f"in force: {common}; no network; no file but the system's, Python's and the course's without solutions,"
            " all read-only; no process but its own; an unprivileged user",
        ],
        "user": [
            f"in force: {common}; an unprivileged user",
            "NOT in force: the network is not cut off; files that everybody may read can be read",
        ],
        "limits": [
            f"in force: {common}",
            "NOT in force: the network is not cut off; the code can read and change what you can,"
            " and end your processes",
        ],
    }[degree]


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    _libc("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode())


def _prctl(option: int, value: int) -> None:
    _libc("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _libc(function: str, *arguments) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
