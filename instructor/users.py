"""The degree `user`: a user that nobody is, another one for every run, of whom nothing is left afterwards."""

import contextlib
import ctypes
import os
import pwd
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

SHARED = {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", tempfile.gettempdir()}  # Everybody may write.
SET_REAPER = 36  # From the kernel's sys/prctl.h.
SYSTEM_V = {"shm": ("shmid", "--shmem-id"), "sem": ("semid", "--semaphore-id"), "msg": ("msqid", "--queue-id")}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}


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
    found = psutil.process_iter(["uids"])
    return [process for process in found if process.info["uids"] and process.info["uids"].real == user]


def become(user: int) -> list[str]:
    """The words before a command that make it run as a user, without any privilege and any way to one.

    It ends with whoever started it: a change of user would forget that.
    """
    dropped = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--pdeathsig=KILL")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *dropped]


@contextlib.contextmanager
def borrow_folder(user: int) -> Iterator[str]:
    """A folder that is a user's for one run; afterwards nothing that this user has made is left on the machine.

    What loses its parent meanwhile becomes this process's child (a subreaper's), so nothing gets out of sight.
    """
    ctypes.CDLL(None).prctl(SET_REAPER, 1, 0, 0, 0)
    folder = tempfile.mkdtemp(prefix="sandbox-")
    scratch = f"{folder}/scratch"  # In a folder that is not the user's, so that it cannot be removed.
    os.chmod(folder, 0o711)
    os.mkdir(scratch, 0o700)
    os.chown(scratch, user, user)
    try:
        yield scratch
    finally:
        for path in (folder, *list_files(user)):
            remove_tree(path)
        for kind, (column, option) in SYSTEM_V.items():
            for row in list_system_v(kind, user):
                subprocess.run(["ipcrm", option, row[column]], **QUIET)


def end_processes(user: int) -> None:
    """Kill all of a user's processes at once, so that none can fork its way out, and wait for those that are ours."""
    while found := list_processes(user):
        subprocess.run([*become(user), "sh", "-c", "kill -9 -1"], **QUIET)
        for process in found:
            with contextlib.suppress(psutil.Error, ChildProcessError):
                os.waitpid(process.pid, 0) if process.ppid() == os.getpid() else process.wait(1)


def list_files(user: int) -> list[str]:
    """Files and folders of a user where everybody may write."""
    found = []
    for folder in SHARED:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found += [entry.path for entry in entries if entry.stat(follow_symlinks=False).st_uid == user]
    return found


def list_system_v(kind: str, user: int) -> list[dict[str, str]]:
    """A user's System V objects of one kind, as the kernel describes them."""
    with contextlib.suppress(OSError):
        first, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
        found = [dict(zip(first.split(), row.split(), strict=True)) for row in rows]
        return [row for row in found if str(user) in (row["uid"], row["cuid"])]
    return []


def measure(user: int, folder: str) -> tuple[int, int, int]:
    """Bytes on disk and number of files that a user has, and bytes of its System V shared memory."""
    totals = []
    for unit in ("-B1", "--inodes"):
        done = subprocess.run(["du", "-sc", unit, "--", folder, *list_files(user)], capture_output=True, check=False)
        totals.append(int(done.stdout.splitlines()[-1].split()[0]))
    return totals[0], totals[1], sum(int(row["rss"]) for row in list_system_v("shm", user))


def remove_tree(path: str) -> None:
    """Remove a file or folder, however deep it is and whatever its permissions are."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if os.path.lexists(path):
            subprocess.run([*command, "--", path], **QUIET)
