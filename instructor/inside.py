"""What runs in a sandbox: its processes, what they use together, and their end."""

import contextlib
import os
import select
import signal
import stat
import subprocess
import threading
import time

import psutil

from instructor import users
from instructor.groups import Group
from instructor.limits import Limits, Outcome

SCRATCH = "/scratch"
FOLDERS = (SCRATCH, "/tmp", "/dev/shm")  # Those to write in, in memory.
SECONDS, DISK_SECONDS = 0.1, 0.5  # Between two looks, and between two at a disk, which take longer.


class Inside:
    """The processes of a run: all of `user`, or where that is None, all that bwrap has started."""

    def __init__(self, process: subprocess.Popen, scratch: str, user: int | None):
        self.process, self.scratch, self.user = process, scratch, user
        self.on_disk, self.looked_at_disk = (0, 0, 0), 0.0
        with open(os.memfd_create("any")) as nameless:
            self.memory_device = os.fstat(nameless.fileno()).st_dev

    def find(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            if self.user is not None:
                return users.list_processes(self.user)
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def look(self, limits: Limits, outcome: Outcome) -> str:
        """Measure all of it; returns the limit that is broken, if one is."""
        inside, rss, cpu = self.find(), 0, 0.0
        for each in inside:
            with contextlib.suppress(psutil.Error):
                rss += each.memory_info().rss
                cpu += sum(each.cpu_times()[:4])  # Its own, and that of the children it has waited for.
        in_memory, on_disk = self.measure_nameless(inside)
        if self.user is None:
            held, files = self.measure_folders(inside, limits)
            in_memory, on_disk = in_memory + held, 0  # Their own size is the limit of what is in them.
        else:
            if time.monotonic() > self.looked_at_disk + DISK_SECONDS:
                self.on_disk, self.looked_at_disk = users.measure(self.user, self.scratch), time.monotonic()
            held, files, shared = self.on_disk
            in_memory, on_disk = in_memory + shared, on_disk + held
        if rss + in_memory > outcome.peak_memory:
            # Pages that processes share are counted once; that takes longer to find out.
            outcome.peak_memory = max(outcome.peak_memory, sum(map(measure_share, inside)) + in_memory)
        outcome.cpu_seconds = max(outcome.cpu_seconds, cpu)
        broken = {
            "memory": outcome.peak_memory > limits.memory,
            "processes": len(inside) > limits.processes,
            "disk": files > limits.files or on_disk > limits.disk,
            "cpu": outcome.cpu_seconds > limits.cpu_seconds,
        }
        return next((name for name, is_so in broken.items() if is_so), "")

    def measure_nameless(self, inside: list[psutil.Process]) -> tuple[int, int]:
        """Bytes of open files that have no name (any more): in memory (memfd), and elsewhere."""
        found = {}
        for each in inside:
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{each.pid}/fd"):
                    with contextlib.suppress(OSError):
                        facts = os.stat(f"/proc/{each.pid}/fd/{name}")
                        if facts.st_nlink == 0 and stat.S_ISREG(facts.st_mode):
                            found[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
        in_memory = sum(size for (device, _), size in found.items() if device == self.memory_device)
        return in_memory, sum(found.values()) - in_memory

    def measure_folders(self, inside: list[psutil.Process], limits: Limits) -> tuple[int, int]:
        """Bytes in the sandbox's folders in memory and the number of files there, as one of its processes sees them."""
        for each in reversed(inside):
            with contextlib.suppress(OSError):
                spaces = [os.statvfs(f"/proc/{each.pid}/root{folder}") for folder in FOLDERS]
                if spaces[0].f_blocks * spaces[0].f_frsize <= limits.disk + 2**20:  # Else it is still being built.
                    used = sum((space.f_blocks - space.f_bfree) * space.f_frsize for space in spaces)
                    return used, max(space.f_files - space.f_ffree for space in spaces)
        return 0, 0

    def end(self) -> float:
        """Kill whatever is left of it and wait until it is gone; returns the seconds of CPU that were waited for."""
        with contextlib.suppress(psutil.Error):
            if self.user is None:  # With its process 1 everything in the sandbox ends, and then bwrap.
                for first in psutil.Process(self.process.pid).children():
                    first.kill()
                    first.wait(30)
        os.kill(self.process.pid, signal.SIGKILL)  # Where it has ended, it is still there to be waited for.
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.user is not None:
            users.end_processes(self.user)
        return used.ru_utime + used.ru_stime


def measure_share(process: psutil.Process) -> int:
    """Bytes of a process's memory, pages that it shares divided among those who do."""
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            return process.memory_full_info().pss
        except psutil.AccessDenied:  # In containers, root may not look at other users' pages.
            sizes = process.memory_info()
            return sizes.rss - sizes.shared
    return 0


def watch(
    inside: Inside,
    ends: dict[int, str],
    group: Group | None,
    limits: Limits,
    outcome: Outcome,
    started: float,
    stop: "threading.Event | None",
) -> None:
    """Read the pipes to their limits and look after the processes, until the first of them has ended."""
    kept, poll, looked, ended = {name: bytearray() for name in ends.values()}, select.poll(), 0.0, False
    for end in ends:
        poll.register(end, select.POLLIN)
    while not outcome.reason:
        for end, _ in poll.poll(20):
            data, name = os.read(end, 65536), ends[end]
            kept[name] += data
            if not data:
                poll.unregister(end)
            if name == "result" and len(kept[name]) > limits.result:
                outcome.reason = "result"
            elif name == "output" and len(kept[name]) > limits.output + 16:
                half = limits.output // 2
                kept[name][:] = kept[name][:half] + b"\n[...]\n" + kept[name][-half:]
        if ended:
            break  # This round was for what had been left in the pipes.
        # The exit is looked for, not waited for: `Inside.end` wants to know how much CPU it took.
        ended = os.waitid(os.P_PID, inside.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        now = time.monotonic()
        if now >= looked + SECONDS and not outcome.reason:
            looked = now
            outcome.cpu_seconds = max(outcome.cpu_seconds, group.cpu_seconds if group else 0)
            outcome.reason = "memory" if group and group.out_of_memory else inside.look(limits, outcome)
            late = now - started > limits.seconds
            outcome.reason = "stop" if stop and stop.is_set() else outcome.reason or "time" * late
    outcome.output, outcome.result = (kept[name].decode("utf-8", "replace") for name in ("output", "result"))
