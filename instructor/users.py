"""The degree `user`: a user that nobody is, another one for every run, of whom nothing is left afterwards."""

import contextlib
import ctypes
import os
import pwd
import secrets
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SHARED = {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", tempfile.gettempdir()}  # Everybody may write.
SET_REAPER = 36  # From the kernel's sys/prctl.h.
SYSTEM_V = {"shm": ("shmid", "--shmem-id"), "sem": ("semid", "--semaphore-id"), "msg": ("msqid", "--queue-id")}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
SECONDS = 0.5  # Between two looks at the disk, which take long.


class OtherUser:
    """A user with a folder for one run. What loses its parent becomes this process's child, so that none is lost."""

    def __init__(self):
        ctypes.CDLL(None).prctl(SET_REAPER, 1, 0, 0, 0)
        self.number, self.folder = pick_user(), tempfile.mkdtemp(prefix="sandbox-")
        self.scratch = f"{self.folder}/scratch"  # In a folder that is not the user's, so that it cannot be removed.
        os.chmod(self.folder, 0o711)
        os.mkdir(self.scratch, 0o700)
        os.chown(self.scratch, self.number, self.number)
        self.measured, self.measured_at = (0, 0, 0), 0.0

    def start(self, before: list[str], command: list[str], **options: Any) -> subprocess.Popen:
        """Start a command as this user; `before` are the words before all others."""
        try:
            return subprocess.Popen([*before, *become(self.number), *command], **options)
        except OSError:
            remove_tree(self.folder)
            raise

    def find(self, process: subprocess.Popen) -> list[psutil.Process]:
        return list_processes(self.number)

    def measure(self, inside: list[psutil.Process]) -> tuple[int, int, int]:
        """Bytes of its System V shared memory, its bytes on disk and the number of its files, as of lately."""
        if time.monotonic() > self.measured_at + SECONDS:
            words = ["find", self.scratch, *self.list_files(), "-printf", "%b\n"]
            blocks = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
            ).stdout.split()
            shared = sum(int(row["rss"]) for row in self.list_system_v("shm"))
            self.measured = shared, 512 * sum(map(int, blocks)), len(blocks)
            self.measured_at = time.monotonic()
        return self.measured

    def end(self, process: subprocess.Popen) -> None:
        """Kill all of the user's processes at once, so that none can fork its way out, and remove what it has made."""
        process.kill()
        process.wait()
        while found := list_processes(self.number):
            subprocess.run([*become(self.number), "sh", "-c", "kill -9 -1"], **QUIET)
            for each in found:
                with contextlib.suppress(psutil.Error, ChildProcessError):
                    os.waitpid(each.pid, 0) if each.ppid() == os.getpid() else each.wait(1)
        for path in (self.folder, *self.list_files()):
            remove_tree(path)
        for kind, (column, option) in SYSTEM_V.items():
            for row in self.list_system_v(kind):
                subprocess.run(["ipcrm", option, row[column]], **QUIET)

    def list_files(self) -> list[str]:
        """What the user has where everybody may write."""
        found = []
        for folder in SHARED:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                found += [entry.path for entry in entries if entry.stat(follow_symlinks=False).st_uid == self.number]
        return found

    def list_system_v(self, kind: str) -> list[dict[str, str]]:
        """The user's System V objects of one kind, as the kernel describes them."""
        with contextlib.suppress(OSError):
            first, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
            found = [dict(zip(first.split(), row.split(), strict=True)) for row in rows]
            return [row for row in found if str(self.number) in (row["uid"], row["cuid"])]
        return []


def pick_user() -> int:
    """The number of a user that nobody is and that runs nothing."""
    while True:
        number = 20_000 + secrets.randbelow(40_000)
        try:
            pwd.getpwuid(number)
        except KeyError:
            if not list_processes(number):
                return number


def list_processes(user: int) -> list[psutil.Process]:
    """All processes of a user, those that have ended and that nobody has waited for among them."""
    found = psutil.process_iter(["uids", "num_threads"])
    return [process for process in found if process.info["uids"] and process.info["uids"].real == user]


def become(user: int) -> list[str]:
    """The words before a command that make it run as a user, without any privilege and any way to one."""
    dropped = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *dropped]


def remove_tree(path: str) -> None:
    """Remove a file or folder, however deep it is and whatever its permissions are."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if os.path.lexists(path):
            subprocess.run([*command, "--", path], **QUIET)
