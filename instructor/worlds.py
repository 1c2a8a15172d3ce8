"""The two degrees of isolation: how a run's command is started, what it can access, and how all of it is ended.

`Namespaces`  bubblewrap builds the world that the code sees; everything in it ends with its process 1.
`OtherUser`   An unused user id, a new one for every run; nothing of this user is left afterwards.
"""

import contextlib
import ctypes
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SCRATCH = "/scratch"
FOLDERS = (SCRATCH, "/tmp", "/dev/shm")  # The writable ones, in memory.
SMALL = 64 * 2**20  # bytes in /tmp and in /dev/shm
# The parts of the system that a Python process needs, where they exist.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys/devices/system/cpu") + tuple(
    f"/etc/{name}" for name in ("alternatives", "fonts", "group", "hosts", "ld.so.cache", "localtime", "passwd")
)
NOT_INSTALLED = "bwrap is not installed: apt install bubblewrap (conda install -c conda-forge bubblewrap)"
ALONE = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
# For root: bwrap's user 0 builds the sandbox and forbids further user namespaces; then user 1000, an unused user id
# outside, runs the code. Otherwise the code would be root outside, or bwrap could not read what only root can.
BUILDER = ["--unshare-user", "--uid", "0", "--gid", "0"] + [
    word for name in ("SETUID", "SETGID", "SETPCAP", "SYS_RESOURCE") for word in ("--cap-add", f"CAP_{name}")
]
NO_MORE = ["bash", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "-"]

# Folders where everybody may write; links are resolved, since `find` would not enter them.
SHARED = {*map(os.path.realpath, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", tempfile.gettempdir()))}
OR_OPEN = ["-o", "!", "-perm", "-2", "-prune"]  # `find` enters others' folders if everybody may write to them.
SET_REAPER = 36  # From the kernel's sys/prctl.h.
SYSTEM_V = {"shm": ("shmid", "-m"), "sem": ("semid", "-s"), "msg": ("msqid", "-q")}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
SECONDS = 0.5  # between two looks at the disk, which are slow


class Namespaces:
    """A separate world for one run. Raises OSError if bwrap is not installed."""

    scratch = SCRATCH

    def __init__(self, readable: tuple[str, ...], hidden: tuple[str, ...], disk: int):
        self.front, self.disk = [find_bwrap(), *describe_world(readable, hidden, disk)], disk

    def start(self, before: list[str], command: list[str], pass_fds: list[int], **options: Any) -> subprocess.Popen:
        """Start a command in this world, as an unprivileged user; the words in `before` precede all others."""
        words = [*before, *self.front]
        if os.geteuid() != 0:
            return subprocess.Popen([*words, *ALONE, "--", *command], pass_fds=pass_fds, **options)
        (info, info_in), (block, go) = os.pipe(), os.pipe()
        words += [*BUILDER, "--info-fd", str(info_in), "--userns-block-fd", str(block), "--", *NO_MORE]
        words += [*become(1000), "--pdeathsig=KILL"]  # Set again, as changing the user resets it.
        with open(info) as said, open(go, "w"):  # bwrap waits until this one is closed.
            process = subprocess.Popen([*words, *command], pass_fds=[*pass_fds, info_in, block], **options)
            os.close(info_in)
            os.close(block)
            if facts := said.read():
                child, user = json.loads(facts)["child-pid"], pick_user()
                for kind in ("uid", "gid"):
                    Path(f"/proc/{child}/{kind}_map").write_text(f"0 0 1\n1000 {user} 1\n")
        return process

    def find(self, process: subprocess.Popen) -> list[psutil.Process]:
        """All processes of a run, found from the first."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(process.pid).children(recursive=True)
        return []

    def measure(self, inside: list[psutil.Process]) -> tuple[int, int, int]:
        """Bytes in memory and on disk in the writable folders, and the number of files, as seen from inside."""
        for each in reversed(inside):
            with contextlib.suppress(OSError):
                spaces = [os.statvfs(f"/proc/{each.pid}/root{folder}") for folder in FOLDERS]
                if spaces[0].f_blocks * spaces[0].f_frsize <= self.disk + 2**20:  # Otherwise it is still being built.
                    used = sum((space.f_blocks - space.f_bfree) * space.f_frsize for space in spaces)
                    return used, 0, max(space.f_files - space.f_ffree for space in spaces)
        return 0, 0, 0

    def end(self, process: subprocess.Popen) -> None:
        """Kill all processes of a run and wait for their end: all of them end with process 1, and then bwrap does."""
        if process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for first in psutil.Process(process.pid).children():
                    first.kill()
                    first.wait(30)
            process.kill()
            process.wait()


class OtherUser:
    """A user with a folder for one run. Orphaned processes become this process's children, so that none is missed."""

    def __init__(self):
        ctypes.CDLL(None).prctl(SET_REAPER, 1, 0, 0, 0)
        self.number, self.folder = pick_user(), tempfile.mkdtemp(prefix="sandbox-")
        self.scratch = f"{self.folder}/scratch"  # In a folder of another user, so that it cannot be removed.
        os.chmod(self.folder, 0o711)
        os.mkdir(self.scratch, 0o700)
        os.chown(self.scratch, self.number, self.number)
        self.owned = "-user", str(self.number)
        self.measured, self.measured_at = (0, 0, 0), 0.0

    def start(self, before: list[str], command: list[str], **options: Any) -> subprocess.Popen:
        """Start a command as this user; the words in `before` precede all others."""
        try:
            return subprocess.Popen([*before, *become(self.number), *command], **options)
        except OSError:
            subprocess.run(["rm", "-rf", self.folder], **QUIET)
            raise

    def find(self, process: subprocess.Popen) -> list[psutil.Process]:
        return list_processes(self.number)

    def measure(self, inside: list[psutil.Process]) -> tuple[int, int, int]:
        """Bytes of System V shared memory, bytes on disk and number of files, measured at most SECONDS ago."""
        if time.monotonic() > self.measured_at + SECONDS:
            words = ["find", self.scratch, *SHARED, "-mindepth", "1", *self.owned, "-printf", "%b\n", *OR_OPEN]
            blocks = subprocess.run(words, **QUIET | {"stdout": subprocess.PIPE}).stdout.split()
            shared = sum(int(row["rss"]) for row in self.list_system_v("shm"))
            self.measured = shared, 512 * sum(map(int, blocks)), len(blocks)
            self.measured_at = time.monotonic()
        return self.measured

    def end(self, process: subprocess.Popen) -> None:
        """Kill all of the user's processes at once, so that none escapes by forking, and remove the user's files."""
        process.kill()
        process.wait()
        while found := list_processes(self.number):
            subprocess.run([*become(self.number), "sh", "-c", "kill -9 -1"], **QUIET)
            for each in found:
                with contextlib.suppress(psutil.Error, ChildProcessError):
                    os.waitpid(each.pid, 0) if each.ppid() == os.getpid() else each.wait(1)
        subprocess.run(["rm", "-rf", self.folder], **QUIET)
        # -execdir removes from within the folder: another run may replace the folder by a link.
        alone = ["-mindepth", "1", *self.owned, "-prune", "-execdir", "rm", "-rf", "{}", "+", *OR_OPEN]
        subprocess.run(["find", *SHARED, *alone], env={"PATH": os.defpath}, **QUIET)
        for kind, (column, option) in SYSTEM_V.items():  # As this user: in containers, root may only remove root's.
            words = [word for row in self.list_system_v(kind) for word in (option, row[column])]
            subprocess.run([*become(self.number), "ipcrm", *words], **QUIET)

    def list_system_v(self, kind: str) -> list[dict[str, str]]:
        """The user's System V objects of one kind, including those that nobody may access."""
        with contextlib.suppress(OSError):
            first, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
            found = [dict(zip(first.split(), row.split(), strict=True)) for row in rows]
            return [row for row in found if str(self.number) in (row["uid"], row["cuid"])]
        return []


def find_bwrap() -> str:
    """The path of bubblewrap, which conda installs next to Python. Raises OSError if there is none."""
    found = shutil.which("bwrap", path=os.pathsep.join([os.environ.get("PATH", os.defpath), f"{sys.prefix}/bin"]))
    if not found:
        raise OSError(NOT_INSTALLED)
    return found


def describe_world(readable: tuple[str, ...], hidden: tuple[str, ...], disk: int) -> list[str]:
    """bwrap's options, which define the code's world. The command is process 1, which no signal of its own can end."""
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--hostname", "sandbox"]
    options += ["--as-pid-1", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    for folder in FOLDERS:
        options += ["--perms", "0777", "--size", str(disk if folder == SCRATCH else SMALL), "--tmpfs", folder]
    shown, closed = {*SYSTEM, *list_python(), *readable}, ["--remount-ro", "/dev", "--remount-ro", "/"]
    ends = {path: f"{os.path.realpath(path)}/" for path in shown}
    secret = {*map(os.path.realpath, filter(os.path.exists, hidden))}  # Below a link, each has another name, too.
    secret |= {f"{path}/{far[len(end) :]}" for path, end in ends.items() for far in secret if far.startswith(end)}
    # Hidden paths may be in shown ones, and the other way round; paths through a link come with the link's target.
    for path in sorted(shown | secret, key=len):
        if any(map(os.path.islink, shown.intersection(map(str, Path(path).parents)))):
            continue
        if path in secret - shown:
            if next((above for above in map(str, Path(path).parents) if above in shown | secret), "") in shown:
                folder = os.path.isdir(path)
                options += ["--perms", "0755", "--tmpfs", path] if folder else ["--ro-bind", "/dev/null", path]
                closed += ["--remount-ro", path] if folder else []
        elif os.path.lexists(path):
            for folder in reversed(Path(path).parents[:-1]):  # bwrap would copy a private folder's mode.
                options += ["--perms", "0755", "--dir", str(folder)]
            options += ["--symlink" if os.path.islink(path) else "--ro-bind", os.path.realpath(path), path]
    return [*options, *closed]


def list_python() -> list[str]:
    """The folders of this Python and its packages, outer folders first."""
    found = {sys.base_prefix, sys.prefix, os.path.realpath(sys.prefix), str(Path(sys.executable).resolve().parents[1])}
    link = sys.executable
    while os.path.islink(link):  # An environment may have been created from another one.
        link = os.path.join(os.path.dirname(link), os.readlink(link))
        found.add(os.path.dirname(os.path.normpath(link)))
    found.update(path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages")))
    return sorted(found - {"/"}, key=len)


def pick_user() -> int:
    """A user id that nobody has and that runs nothing."""
    while True:
        number = 20_000 + secrets.randbelow(40_000)
        try:
            pwd.getpwuid(number)
        except KeyError:
            if not list_processes(number):
                return number


def list_processes(user: int) -> list[psutil.Process]:
    """All processes of a user, including zombies."""
    found = psutil.process_iter(["uids", "num_threads"])
    return [process for process in found if process.info["uids"] and process.info["uids"].real == user]


def become(user: int) -> list[str]:
    """The words to put before a command, so that it runs as a user without privileges or any way to gain them."""
    dropped = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *dropped]
