"""The limits of a run, how it ended, and the watch that enforces the limits."""

import contextlib
import os
import re
import select
import signal
import stat
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from instructor.groups import Group
from instructor.worlds import Namespaces, OtherUser

MEBI = 2**20
SECONDS = 0.1  # between two looks


@dataclass(frozen=True)
class Limits:
    """The limits for all processes together; sizes in bytes."""

    seconds: float = 150.0
    cpu_seconds: float = 60.0
    memory: int = 3072 * MEBI
    processes: int = 64
    disk: int = 512 * MEBI
    files: int = 20_000
    output: int = 64 * 1024
    result: int = 2 * MEBI  # Honest results have about 100 kB; the grader, which reads them, has no limits itself.

    def __str__(self) -> str:
        return (
            f"{self.seconds:g} s, {self.cpu_seconds:g} s of CPU in total, {self.memory // MEBI} MiB of memory,"
            f" {self.processes} processes, {self.disk // MEBI} MiB of disk"
        )


@dataclass
class Outcome:
    """How a run ended: `reason` names the limit that it broke; if empty, it ended by itself, with exit code `code`."""

    code: int = 0
    reason: str = ""
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    output: str = ""
    result: str = ""

    def describe(self, limits: Limits) -> str:
        """Say in one sentence how it ended."""
        broken = {
            "time": f"it did not end within {limits.seconds:g} s",
            "cpu": f"it used more than {limits.cpu_seconds:g} s of CPU",
            "memory": f"it used more than {limits.memory // MEBI} MiB of memory",
            "processes": f"it started more than {limits.processes} processes",
            "disk": f"it wrote more than {limits.disk // MEBI} MiB or {limits.files:,} files",
            "result": f"it returned more than {limits.result // MEBI} MiB",
            "stop": "grading was stopped",
            "sandbox": f"the sandbox could not be set up ({self.output.strip()[-300:]})",
        }
        if self.reason:
            return f"stopped: {broken[self.reason]}."
        if self.code < 0:
            return f"its process was killed by signal {-self.code}."
        return f"its process ended with exit code {self.code}."


def watch(
    process: subprocess.Popen, world: Namespaces | OtherUser, group: Group, limits: Limits, outcome: Outcome,
    result: int, stop: threading.Event,
) -> None:  # fmt: skip
    """Read the pipes up to their limits and watch the processes, until the first process has ended."""
    started, looked, ended, poll = time.monotonic(), 0.0, False, select.poll()
    spent: dict[int, float] = {}
    kept = {result: bytearray(), process.stdout.fileno(): bytearray()}
    for end in kept:
        poll.register(end, select.POLLIN)
    while not outcome.reason:
        for end, _ in poll.poll(20):
            data = os.read(end, 65536)
            kept[end] += data
            if not data:
                poll.unregister(end)
            if end == result and len(kept[end]) > limits.result:
                outcome.reason = "result"
            elif end != result:
                del kept[end][: -limits.output]  # Its end is shown where a sandbox fails.
        if ended:
            break  # This round has read what was left in the pipes.
        ended, now = process.poll() is not None, time.monotonic()
        if now >= looked + SECONDS and not (ended or outcome.reason):
            looked = now
            process.send_signal(signal.SIGCONT)  # As the same user, the code could halt whatever limits its time.
            outcome.reason = look(process, world, group, limits, outcome, spent)
            if stop.is_set():
                outcome.reason = "stop"
            elif now > started + limits.seconds and not outcome.reason:
                outcome.reason = "time"
    outcome.result, outcome.output = (text.decode("utf-8", "replace") for text in kept.values())


def look(
    process: subprocess.Popen, world: Namespaces | OtherUser, group: Group, limits: Limits, outcome: Outcome,
    spent: dict[int, float],
) -> str:  # fmt: skip
    """Measure a whole run; `spent` collects its processes' seconds of CPU. Returns the limit it has broken, if any."""
    inside, rss, cpu = world.find(process), 0, 0.0
    for each in inside:
        with contextlib.suppress(psutil.Error):
            rss += each.memory_info().rss
            times = each.cpu_times()
            cpu += sum(times[:4])  # Its own, and that of the children it has waited for.
            spent[each.pid] = sum(times[:2])  # A parent that does not wait for its children never counts their CPU.
    in_memory, on_disk, files = world.measure(inside)
    nameless_in_memory, nameless_on_disk = measure_nameless(inside)
    in_memory += nameless_in_memory
    if rss + in_memory > outcome.peak_memory:
        # Now count pages that processes share only once, which takes longer.
        outcome.peak_memory = max(outcome.peak_memory, sum(map(measure_share, inside)) + in_memory)
    outcome.cpu_seconds = max(outcome.cpu_seconds, cpu, sum(spent.values()), group.cpu_seconds)
    broken = {
        "memory": group.out_of_memory or outcome.peak_memory > limits.memory,
        "processes": len(inside) > limits.processes,
        "disk": files > limits.files or on_disk + nameless_on_disk > limits.disk,
        "cpu": outcome.cpu_seconds > limits.cpu_seconds,
    }
    return next((name for name, is_so in broken.items() if is_so), "")


def measure_nameless(inside: list[psutil.Process]) -> tuple[int, int]:
    """Bytes in open files without a name (unlinked, or memfd): in memory, and elsewhere."""
    with open(os.memfd_create("any")) as nameless:
        memory_device = os.fstat(nameless.fileno()).st_dev
    found = {}
    for each in inside:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{each.pid}/fd"):
                with contextlib.suppress(OSError):
                    facts = os.stat(f"/proc/{each.pid}/fd/{name}")
                    if facts.st_nlink == 0 and stat.S_ISREG(facts.st_mode):
                        found[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    in_memory = sum(size for (device, _), size in found.items() if device == memory_device)
    return in_memory, sum(found.values()) - in_memory


def measure_share(process: psutil.Process) -> int:
    """Bytes of a process's memory, with shared pages divided among the processes that share them."""
    with contextlib.suppress(psutil.NoSuchProcess, OSError):
        try:
            return process.memory_full_info().pss
        except psutil.AccessDenied:  # In containers, root may not inspect other users' pages.
            status = Path(f"/proc/{process.pid}/status").read_text()  # Without shared libraries.
            return 1024 * sum(map(int, re.findall(r"Rss(?:Anon|Shmem):\s*(\d+)", status)))
    return 0
