"""A control group (version 1 or 2) for each sandbox, where this process may create one.

It counts what process statistics miss: memory that belongs to no process (memfd, detached SysV segments, socket
buffers), and the CPU time of processes that start and end between two looks. It also shares the CPU fairly.
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
WANTED = ("memory", "cpu", "cpuacct", "cpu,cpuacct")  # In version 1, each controller has its own groups.
# In the order in which they can be set. When memory is full, either all processes are killed (version 2), or requests
# fail or wait until the watch ends the run; never just one process, so that the cause is known.
LIMITS = {"memory.swap.max": "0", "memory.oom.group": "1", "memory.max": "", "memory.oom_control": "1"}
LIMITS |= {"memory.limit_in_bytes": "", "memory.memsw.limit_in_bytes": ""}
# The shell moves itself into the groups, then becomes the command, no part of which ever runs outside.
JOIN = 'IFS=:; for group in $0; do echo $$ > "$group/cgroup.procs" || exit 1; done; unset IFS; exec "$@"'


@dataclass
class Group:
    """The groups of one run: one folder (version 2), one per controller (version 1), or none, without any limits."""

    folders: list[Path]

    def join(self) -> list[str]:
        """The words to put before a command, so that it starts in the groups."""
        return ["bash", "-c", JOIN, ":".join(map(str, self.folders))] if self.folders else []

    def _read(self, *names: str) -> str:
        found = [folder / name for folder in self.folders for name in names if (folder / name).exists()]
        return found[0].read_text() if found else ""

    @property
    def out_of_memory(self) -> bool:
        """Whether its processes have asked for more memory than they may have."""
        return re.search(r"(oom_kill|under_oom) [1-9]", self._read("memory.events", "memory.oom_control")) is not None

    @property
    def cpu_seconds(self) -> float:
        """Seconds of CPU used by all its processes, including those that have ended."""
        if nanoseconds := self._read("cpuacct.usage"):
            return int(nanoseconds) / 1e9
        return sum(int(n) / 1e6 for n in re.findall(r"usage_usec (\d+)", self._read("cpu.stat")))

    def remove(self) -> None:
        """Remove the groups; the kernel allows that only a moment after the last process has ended."""
        deadline = time.monotonic() + 5
        while self.folders and time.monotonic() < deadline:
            try:
                self.folders[-1].rmdir()
                self.folders.pop()
            except OSError:
                time.sleep(0.01)


@contextlib.contextmanager
def open_group(memory: int) -> Iterator[Group]:
    """A group for one run, limited to so many bytes of memory, or one without limits (see `find_problem`)."""
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
        for above in (here, here.parent):  # In version 2, a group with processes cannot have controlled subgroups.
            with contextlib.suppress(OSError):
                below = (above / "cgroup.subtree_control").read_text().split() if not controllers else []
                if controllers in WANTED or "memory" in below:
                    (above / name).mkdir()
                    group.folders.append(above / name)
                    break
    files = {folder / name: value or str(memory) for folder in group.folders for name, value in LIMITS.items()}
    known = [file for file in files if file.exists()]
    for file in known:
        file.write_text(files[file])
    if not known:
        group.remove()
        raise OSError(f"no group that limits memory can be created in {ROOT}")
    return group


@cache
def find_problem() -> str:
    """Why control groups cannot limit the memory of what this process starts; empty if they can."""
    try:
        group = make_group(2**28)
    except OSError as error:
        return str(error)
    done = subprocess.run([*group.join(), "true"], capture_output=True, text=True)
    group.remove()
    return done.stderr.strip()[-200:]
