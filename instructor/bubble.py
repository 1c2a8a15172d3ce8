"""The degree `namespaces`: how bubblewrap is told what the code finds in its world."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from instructor import users
from instructor.inside import FOLDERS, SCRATCH

SMALL = 64 * 2**20  # Bytes in /tmp and in /dev/shm.
# What a Python process needs of the system; what is absent is left out.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys/devices/system/cpu") + tuple(
    f"/etc/{name}" for name in ("alternatives", "fonts", "group", "hosts", "ld.so.cache", "localtime", "passwd")
)
NOT_INSTALLED = "bwrap is not installed: apt install bubblewrap (conda install -c conda-forge bubblewrap)"
ALONE = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]  # For who is not root.


def open_pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose reading end is closed with the stack; the writing end is its user's to close."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    return reader, writer


def find_bwrap() -> str:
    """The path of bubblewrap; conda puts it beside Python. Raises OSError where there is none."""
    found = shutil.which("bwrap", path=os.pathsep.join([os.environ.get("PATH", os.defpath), f"{sys.prefix}/bin"]))
    if not found:
        raise OSError(NOT_INSTALLED)
    return found


class SecondUser:
    """For root: bwrap's 0 builds the sandbox, and 1000, who outside is a user that nobody is, runs the code.

    bwrap waits (`--userns-block-fd`) until `enter` has named both and has forbidden further user namespaces. Otherwise
    the code would be root outside, or bwrap could not read what root alone can.
    """

    def __init__(self, stack: contextlib.ExitStack, user: int):
        self.user = user
        self.info, info_in = open_pipe(stack)
        block, self.go = os.pipe()
        self.handles = [info_in, block]
        stack.callback(os.close, self.go)
        self.options = ["--unshare-user", "--uid", "0", "--gid", "0"]
        self.options += ["--userns-block-fd", str(block), "--info-fd", str(info_in)]
        for name in ("SETUID", "SETGID", "SETPCAP", "CHOWN"):
            self.options += ["--cap-add", f"CAP_{name}"]
        own = f'chown 1000:1000 {" ".join(FOLDERS)} && exec "$@"'
        self.become = ["bash", "-c", own, "-", *users.become(1000)]

    def enter(self) -> None:
        said = b""
        while b"}" not in said:
            part = os.read(self.info, 4096)
            if not part:
                raise OSError("bwrap could not begin")
            said += part
        child = json.loads(said)["child-pid"]
        for kind in ("uid", "gid"):
            Path(f"/proc/{child}/{kind}_map").write_text(f"0 0 1\n1000 {self.user} 1\n")
        no_more = ["sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces"]
        subprocess.run(["nsenter", f"--user=/proc/{child}/ns/user", "-S0", "-G0", *no_more], check=True)
        os.write(self.go, b"1")


def describe_root(readable: tuple[str, ...], hidden: tuple[str, ...], disk: int) -> list[str]:
    """bwrap's options: what the code finds in its world. The command is process 1, which no signal of its own ends."""
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--hostname", "sandbox"]
    options += ["--as-pid-1", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    for folder, size in zip(FOLDERS, (disk, SMALL, SMALL), strict=True):
        options += ["--perms", "0700", "--size", str(size), "--tmpfs", folder]
    for path in (*SYSTEM, *list_python(), *readable):
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            for folder in reversed(Path(path).parents[:-1]):  # bwrap would copy the modes of a private folder.
                options += ["--perms", "0755", "--dir", str(folder)]
            options += ["--ro-bind", path, path]
    for path in filter(os.path.exists, hidden):
        empty = ["--perms", "0755", "--tmpfs", path, "--remount-ro", path]
        options += empty if os.path.isdir(path) else ["--ro-bind", "/dev/null", path]
    return [*options, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", SCRATCH]


def list_python() -> list[str]:
    """The folders of this Python and its packages, those above others first."""
    found = {sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parents[1])}
    found.update(path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages")))
    return sorted(found - {"/"}, key=len)
