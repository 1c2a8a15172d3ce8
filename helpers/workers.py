"""The workers: local processes, or those of a Dask scheduler, behind the same executor interface.

Where torch is needed, it is imported late: the command line starts the workers' server before its own long imports.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any
from unittest.mock import patch

import psutil
from tqdm.std import tqdm

from helpers.results import blame_exercises, count_cores, limit_memory
from helpers.settings import CourseError

GPU_WORKERS = 4
WORKER_MEMORY = 3 * 2**29  # bytes; about what one needs for reviews as long as IMDb's
# On Linux, workers are forked from a server process that has imported these and lives as long as this one. It imports
# none of the course's files, which a student may change. On macOS, NumPy's libraries cannot be used after a fork.
START = "forkserver" if sys.platform == "linux" else "spawn"
PRELOADED = ["datasets", "optuna", "transformers.trainer", "transformers.models.bert.modeling_bert"]
# On Linux, workers use memory pages of 2 MB, with which large tensors are read faster, and keep the memory that a step
# has freed for the next one (see `return_memory`).
MEMORY = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"  # 32 MiB, the highest there is
    ":glibc.malloc.trim_threshold=1073741824",
}
_turn = threading.Lock()


def count_workers() -> int:
    """One worker per core that this process may use, if there is enough free memory; four workers share a GPU."""
    import torch

    if torch.cuda.is_available():
        return GPU_WORKERS
    return max(1, min(count_cores(), limit_memory(psutil.virtual_memory().available) // WORKER_MEMORY))


def return_memory() -> None:
    """Return freed memory that glibc keeps to the system: after some runs it would be twice the memory in use."""
    with suppress(AttributeError, OSError, TypeError):  # Not Linux with glibc.
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def open_executor(workers: int, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Dask's executor, or one of local processes, which never outlive this one; and how many jobs it runs at a time.

    With 0 workers, this process does the jobs.
    """
    if scheduler:
        with connect(scheduler) as client:
            found = len(client.nthreads())
            if not found:
                print(f"The scheduler has no workers yet. Start `dask worker {scheduler} --nthreads 1`.", flush=True)
            yield client.get_executor(), max(1, found)
        return
    others = multiprocessing.active_children()
    try:
        local = workers and ProcessPoolExecutor(workers, choose_context(), initializer=start_worker)
        pool = local or ThreadPoolExecutor(1)
    except OSError as error:
        raise CourseError(
            f"Worker processes cannot be started here ({error.strerror}). On Linux, they need a writable /dev/shm with"
            " free space: mount one (in a container), or ask your administrator for it, and run this again."
        ) from error
    try:
        # Otherwise each worker would first run the user's script again, and thus start training itself.
        with patch.multiple(sys.modules["__main__"], create=True, __spec__=None, __file__=None):
            yield pool, workers or 1
    except BaseException:
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def choose_context() -> Any:
    """How workers are started. If a server process forks them, start it here; they inherit its environment."""
    if START == "forkserver":
        from multiprocessing import forkserver  # Missing on Windows.

        forkserver.set_forkserver_preload(PRELOADED)
        try:
            with delayed_interrupts(), patch.dict(os.environ, MEMORY | os.environ):
                forkserver.ensure_running()
        except OSError:  # Its socket in TMPDIR: the path may be too long, or the drive without sockets.
            return multiprocessing.get_context("spawn")
    return multiprocessing.get_context(START)


def connect(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise CourseError("--scheduler needs Dask: python -m pip install -c constraints.txt -e '.[cluster]'") from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # No traceback: our message follows.
    try:
        return Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise CourseError(
            f"There is no Dask scheduler at {scheduler} ({type(error).__name__}). Start one with `dask scheduler`, and"
            " give the address that it prints, such as tcp://HOST:8786."
        ) from error


def call(module: str, function: str, *arguments: Any) -> Any:
    """A worker's job, sent by name: unpickling a function would end the process if exercises.py cannot be imported."""
    try:
        job = getattr(import_module(module), function)
    except (Exception, SystemExit) as error:
        said = blame_exercises(error) or f"importing {module} stopped with {type(error).__name__}: {error}"
        raise CourseError(f"A worker cannot start: {said}. Fix it, save the file, and run this again.") from error
    return job(*arguments)


def is_loss(error: Exception) -> bool:
    """Whether a job failed because its worker died; Dask raises such errors only after retrying on other workers."""
    lost = ("KilledWorker", "CommClosedError", "CancelledError", "FutureCancelledError")
    return isinstance(error, BrokenExecutor) or type(error).__name__ in lost


def start_worker() -> None:
    """Let a worker ignore Ctrl-C, and start a thread in it that ends it with its parent.

    The parent is the process that started it; if the server process that forked it ends, the worker ends as well.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # All processes receive it; the parent ends them.
    parent, forked_by = multiprocessing.parent_process(), os.getppid()
    tqdm.set_lock(threading.RLock())  # Its default lock is a semaphore that a killed process would leave behind.

    def end_with_parent() -> None:
        while parent.is_alive() and os.getppid() == forked_by:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: several single-threaded processes are faster, and sums are the same on every machine.

    Jobs in other threads (a Dask worker may have them) wait: they would share this one's random number generator.
    """
    import torch

    with _turn:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with patch.object(torch, "set_num_threads"):  # A student's code may ask for more.
                yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Delay Ctrl-C; processes started in the meantime never react to it (all receive it): their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
