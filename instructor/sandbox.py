"""Run untrusted code in isolation from everything else, within limits, on Linux.

There are two degrees of isolation, of which the stronger one that works is used:

`namespaces`  bubblewrap (`bwrap`) builds a root folder that contains only the system, Python and the `readable` paths,
              all read-only; writable folders in memory; no network; its own processes, which end together.
`user`        For root, if the kernel refuses namespaces: an unused user id, a new one for every run.
              `DEGREES` says what this cannot do.

Limits hold for all processes of a run together; psutil watches them, as does a control group if one can be created.
"""

import os
import resource
import site
import subprocess
import sys
import tempfile
import threading
from functools import cache

from instructor import groups
from instructor.limits import MEBI, Limits, Outcome, watch
from instructor.worlds import Namespaces, OtherUser, list_processes

ALWAYS = "limits of time, CPU, memory, processes, disk and output; a clean environment; a fresh folder for each run"
# What each degree enforces and what not, for the readers of a score sheet; the strongest first.
DEGREES = {
    "namespaces": [
        f"in force: {ALWAYS}; no network; no files except the system's, Python's and the course's (without solutions),"
        " all read-only; no processes except its own; an unprivileged user (bubblewrap)",
    ],
    "user": [
        f"in force: {ALWAYS}; a separate unprivileged user for every run, whose files, shared memory and processes are"
        " removed afterwards",
        "NOT in force: the network is not cut off; files that everybody may read can be read; other processes' names"
        " can be seen",
    ],
}


def run(
    command: list[str],
    readable: tuple[str, ...] = (),
    limits: Limits = Limits(),  # noqa: B008
    stdin: str = "",
    degree: str = "namespaces",
    hidden: tuple[str, ...] = (),
    stop: threading.Event | None = None,
    **environment: str,
) -> Outcome:
    """Run a command: its result is what it writes to file descriptor 3, its output what it prints.

    It starts in an empty folder, its HOME, and can read the paths in `readable`, but (with `namespaces`) none of those
    in `hidden`. The outcome says how it ended, whatever it did; afterwards, nothing of it is left on the machine.
    Another thread can end it by setting `stop`. Raises OSError if such a sandbox cannot be created.
    """
    outcome = Outcome()
    world = Namespaces(readable, hidden, limits.disk) if degree == "namespaces" else OtherUser()
    result, result_in = os.pipe()
    # The shell's empty line says that the sandbox is set up: after it, no exit code is taken for a failed sandbox.
    shell = ["bash", "-c", f'cd && exec 3>&{result_in} {result_in}>&- && echo >&3 && exec "$@"', "-"]
    with open(result), groups.open_group(limits.memory) as group, tempfile.TemporaryFile() as job:
        job.write(stdin.encode())
        job.seek(0)
        try:
            process = world.start(
                group.join(), [*limit(limits), *shell, *command], pass_fds=[result_in], cwd="/", start_new_session=True,
                stdin=job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=clean_environment(world.scratch, **environment),
            )  # fmt: skip
        finally:
            os.close(result_in)
        try:
            watch(process, world, group, limits, outcome, result, stop or threading.Event())
        finally:
            world.end(process)
            process.stdout.close()
        outcome.code, outcome.cpu_seconds = process.returncode, round(max(outcome.cpu_seconds, group.cpu_seconds), 2)
        if not outcome.reason and group.out_of_memory:
            outcome.reason = "memory"
    set_up, outcome.result = outcome.result[:1], outcome.result[1:]
    if not outcome.reason and not set_up:
        outcome.reason = "sandbox"
    return outcome


def limit(limits: Limits) -> list[str]:
    """The command that sets the kernel's limits for each process or user."""
    tasks = 4 * limits.processes  # Threads count, too; the watch counts processes.
    if own := os.geteuid():  # Older kernels also count what the grader's own user runs elsewhere.
        tasks += sum(process.info["num_threads"] or 0 for process in list_processes(own))
    wanted = {"as": max(2 * limits.memory, 4096 * MEBI) + 4096 * MEBI, "fsize": limits.disk, "nofile": 1024}
    wanted |= {"core": 0, "nproc": tasks, "memlock": MEBI, "msgqueue": 0}
    words = ["prlimit"]
    for name, value in wanted.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        words.append(f"--{name}={value if hard == resource.RLIM_INFINITY else min(value, hard)}")
    return words


def clean_environment(scratch: str, **more: str) -> dict[str, str]:
    """The complete environment of untrusted code, with none of the grader's own variables."""
    return {
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "PYTHONUSERBASE": site.getuserbase(),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COURSE_PROFILE": "quick",
        "COURSE_BUILD": f"{scratch}/build",
    } | more


@cache
def try_degree(degree: str) -> str:
    """Run something harmless in a degree of isolation; returns what went wrong, or an empty text."""
    if degree == "user" and os.geteuid() != 0:
        return "only root can do that"
    script = "import ctypes, os, ssl; open('written', 'w').close(); os.write(3, b'works')"
    try:
        outcome = run([sys.executable, "-c", script], (), Limits(seconds=60, memory=512 * MEBI), degree=degree)
    except OSError as error:
        return str(error)
    if outcome.result != "works":
        return (outcome.output.strip() or outcome.describe(Limits())).splitlines()[-1][:200]
    return ""


def find_degree(wanted: str = "auto") -> tuple[str, list[str]]:
    """The strongest degree of isolation that works here, or the wanted one; and what it enforces on this machine.

    Raises OSError if none works.
    """
    refused = []
    for degree in DEGREES if wanted == "auto" else (wanted,):
        problem = try_degree(degree)
        if not problem:
            lines = [*DEGREES[degree], *refused]
            if reason := groups.find_problem():
                lines.append(
                    f"no control group can be made here ({reason}), so some usage is not counted: memory that belongs"
                    " to no process (detached SysV segments, sockets), in most containers files without a name, and the"
                    " CPU of very short processes"
                )
            return degree, lines
        refused.append(f"{degree} does not work here: {problem}")
    raise OSError("; ".join(refused))
