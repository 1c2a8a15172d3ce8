"""A control group of its own for each sandbox, of version 1 or 2, where this process may make one.

It counts what looking at processes does not see: memory that belongs to none of them (memfd, detached SysV segments,
socket buffers), and the CPU of those that come and go between two looks. It shares the CPU fairly, too.
"""

import contextlib
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
WANTED = ("memory", "cpu", "cpuacct", "cpu,cpuacct")  # In version 1, each has groups of its own.
# In the order in which they can be set. Where memory is full, no single process is killed: all of them are (version 2),
# or who asks gets an error or waits until the watch ends all, so that it is known whose fault it was.
LIMITS = {"memory.swap.max": "0", "memory.oom.group": "1", "memory.max": "", "memory.oom_control": "1"}
LIMITS |= {"memory.limit_in_bytes": "", "memory.memsw.limit_in_bytes": ""}
# Moves itself into the groups, then becomes the command: nothing of it is ever outside.
JOIN = 'IFS=:; for group in $0; do echo $$ > "$group/cgroup.procs" || exit 1; done; unset IFS; exec "$@"'


@dataclass
class Group:
    """The groups of one run: one folder (version 2), one for each controller, or none, which limits nothing."""

    folders: list[Path]

    def join(self) -> list[str]:
        """The words before a command that make it start in the groups."""
        return ["bash", "-c", JOIN, ":".join(map(str, self.folders))] if self.folders else []

    def _read(self, *names: str) -> str:
        found = [folder / name for folder in self.folders for name in names if (folder / name).exists()]
        return found[0].read_text() if found else ""

    @property
    def out_of_memory(self) -> bool:
        """Whether its processes wanted more memory than there is for them."""
        return re.search(r"(oom_kill|under_oom) [1-9]", self._read("memory.events", "memory.oom_control")) is not None

    @property
    def cpu_seconds(self) -> float:
        """Seconds of CPU of all its processes, those that have ended too."""
        if nanoseconds := self._read("cpuacct.usage"):
            return int(nanoseconds) / 1e9
        return sum(int(n) / 1e6 for n in re.findall(r"usage_usec (\d+)", self._read("cpu.stat")))

    def remove(self) -> None:
        """Remove the groups; the kernel lets them go a moment after the last process has ended."""
        deadline = time.monotonic() + 5
        while self.folders and time.monotonic() < deadline:
            try:
                self.folders[-1].rmdir()
                self.folders.pop()
            except OSError:
                time.sleep(0.01)


@contextlib.contextmanager
def open_group(memory: int) -> Iterator[Group]:
    """A group for one run that may use so many bytes of memory, or one that limits nothing (see `find_problem`)."""
    group = Group([]) if find_problem() else make_group(memory)
    try:
        yield group
    finally:
        group.remove()


def make_group(memory: int) -> Group:
    group, name = Group([]), f"sandbox-{os.getpid()}-{secrets.token_hex(4)}"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        here = ROOT / controllers / own.lstrip("/")
        for above in (here, here.parent):  # In version 2, a group with processes can hand nothing down.
            with contextlib.suppress(OSError):
                below = (above / "cgroup.subtree_control").read_text().split() if not controllers else []
                if controllers in WANTED or "memory" in below:
                    (above / name).mkdir()
                    group.folders.append(above / name)
                    break
    limited = False
    for folder in group.folders:
        for name, value in LIMITS.items():
            if (folder / name).exists():
                (folder / name).write_text(value or str(memory))
                limited = True
    if not limited:
        group.remove()
        raise OSError(f"no group for memory can be made in {ROOT}")
    return group


@cache
def find_problem() -> str:
    """Why no control group can limit the memory of what this process starts; empty where one can."""
    try:
        group = make_group(2**28)
    except OSError as error:
        return str(error)
    done = subprocess.run([*group.join(), "true"], capture_output=True, text=True)
    group.remove()
    return done.stderr.strip()[-200:]
