"""Run untrusted code apart from everything else, within limits, on Linux.

Two degrees of isolation, the better one that works being taken:

`namespaces`  bubblewrap (`bwrap`) makes a root folder with nothing in it but system, Python and what is named readable,
              all read-only; folders to write in, in memory; no network; processes of its own that end together.
`user`        For root where the kernel refuses namespaces: a user that nobody is, another one for every run.
              `describe_degree` says what this cannot do.

Limits hold for all processes of a run together; psutil watches them, and a control group where one can be made.
"""

import contextlib
import os
import resource
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache

import psutil

from instructor import groups, users
from instructor.bubble import ALONE, SecondUser, describe_root, find_bwrap, open_pipe
from instructor.inside import SCRATCH, Inside, watch
from instructor.limits import MEBI, Limits, Outcome

DEGREES = ("namespaces", "user")


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
    """Run a command whose result is what it writes to file descriptor 3, and whose output is what it prints.

    It starts in an empty folder, its HOME, and can read the paths `readable`, but (in the degree `namespaces`) none of
    `hidden`. Whatever it does, the outcome says so; when this returns, nothing of it is left on the machine. Another
    thread ends it by setting `stop`.
    """
    outcome, started, user = Outcome(), time.monotonic(), users.pick_user()
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(groups.make_group(limits.memory))
        job = stack.enter_context(tempfile.TemporaryFile())
        job.write(stdin.encode())
        job.seek(0)
        (result, result_in), (ready, ready_in) = (open_pipe(stack) for _ in range(2))
        scratch, second_user, handles = SCRATCH, None, [result_in, ready_in]
        if degree == "namespaces":
            second_user = SecondUser(stack, user) if os.geteuid() == 0 else None
            front = [find_bwrap(), *(second_user.options if second_user else ALONE)]
            front += [*describe_root(readable, hidden, limits.disk), "--", *(second_user.become if second_user else ())]
            handles += second_user.handles if second_user else []
        else:
            scratch = stack.enter_context(users.borrow_folder(user))
            front = users.become(user)
        closed = " ".join(f"{handle}>&-" for handle in handles)
        # Who gets as far as this shell is set up: after that, no exit code is taken for a failed sandbox.
        shell = ["bash", "-c", f'echo >&{ready_in}; exec 3>&{result_in} {closed}; exec "$@"', "-"]
        process = subprocess.Popen(
            [*(group.join() if group else ()), *front, *limit(limits), *shell, *command],
            stdin=job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=handles, start_new_session=True,
            env=clean_environment(scratch, **environment), cwd="/" if degree == "namespaces" else scratch,
        )  # fmt: skip
        inside = Inside(process, scratch, user if degree == "user" else None)
        try:
            for handle in handles:
                os.close(handle)
            if second_user:
                second_user.enter()
            watch(inside, {process.stdout.fileno(): "output", result: "result"}, group, limits, outcome, started, stop)
        except (OSError, subprocess.CalledProcessError) as error:
            os.kill(process.pid, signal.SIGKILL)
            outcome.reason, outcome.output = "sandbox", f"{error}: {process.stdout.read(4096).decode(errors='replace')}"
        finally:
            used = inside.end()
            process.stdout.close()
        outcome.code = process.returncode
        outcome.cpu_seconds = max(outcome.cpu_seconds, used, group.cpu_seconds if group else 0)
        if not outcome.reason and group and group.out_of_memory:
            outcome.reason = "memory"
        if not outcome.reason and not os.read(ready, 1):
            outcome.reason = "sandbox"
    outcome.cpu_seconds, outcome.seconds = round(outcome.cpu_seconds, 2), round(time.monotonic() - started, 2)
    return outcome


def limit(limits: Limits) -> list[str]:
    """The words that set what the kernel limits for each process or user."""
    tasks = 4 * limits.processes  # Threads count, too; processes are counted by the watch.
    if own := os.geteuid():  # Older kernels count what the grader's own user runs elsewhere.
        tasks += sum(psutil.Process(p.pid).num_threads() for p in users.list_processes(own))
    wanted = {"as": max(2 * limits.memory, 4096 * MEBI) + 4096 * MEBI, "fsize": limits.disk, "nofile": 1024}
    wanted |= {"core": 0, "nproc": tasks, "memlock": MEBI, "msgqueue": 0}
    words = ["prlimit"]
    for name, value in wanted.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        words.append(f"--{name}={value if hard == resource.RLIM_INFINITY else min(value, hard)}")
    return words


def clean_environment(scratch: str, **more: str) -> dict[str, str]:
    """The whole environment of untrusted code: nothing of the grader's own gets into it."""
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
    """Run something harmless in a degree of isolation; returns what is wrong with it."""
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
    """The best degree of isolation that works here, or the wanted one; and what is not as good as it could be.

    Raises OSError where none works, ValueError for a degree that there is none of.
    """
    if wanted not in ("auto", *DEGREES):
        raise ValueError(f"Unknown degree {wanted!r}. Choose one of: auto, {', '.join(DEGREES)}.")
    reasons = []
    for degree in DEGREES if wanted == "auto" else (wanted,):
        problem = try_degree(degree)
        if not problem:
            if reason := groups.find_problem():
                reasons.append(
                    f"no control group can be made here ({reason}): memory that belongs to no process (detached SysV"
                    " segments, sockets) and the CPU of the shortest processes are not counted"
                )
            return degree, reasons
        reasons.append(f"{degree} does not work here: {problem}")
    raise OSError("; ".join(reasons))


def describe_degree(degree: str) -> list[str]:
    """What holds, and what does not, for people who read a score sheet."""
    common = "limits of time, CPU, memory, processes, disk and output; a clean environment; a fresh folder for each run"
    return {
        "namespaces": [
            f"in force: {common}; no network; no file but the system's, Python's and the course's without solutions,"
            " all read-only; no process but its own; an unprivileged user (bubblewrap)",
        ],
        "user": [
            f"in force: {common}; an unprivileged user of its own for every run, whose files, shared memory and"
            " processes are removed after it",
            "NOT in force: the network is not cut off; files that everybody may read can be read; other processes'"
            " names can be seen",
        ],
    }[degree]
