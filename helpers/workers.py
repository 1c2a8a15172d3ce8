"""Who trains: local processes, or the workers of a Dask scheduler, behind one kind of executor."""

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
import torch
from tqdm.std import tqdm

from helpers.results import blame_exercises, count_cores, limit_memory
from helpers.settings import CourseError

GPU_WORKERS = 4
WORKER_MEMORY = 3 * 2**29  # bytes, about what one takes where reviews are as long as IMDb's
# On Linux, a process that has imported these forks the workers, for as long as this one lives. Of the course it imports
# nothing: a student may have changed it since. On macOS what numpy has computed with cannot be used after a fork.
START = "forkserver" if sys.platform == "linux" else "spawn"
PRELOADED = ["datasets", "optuna", "transformers.trainer", "transformers.models.bert.modeling_bert"]
# On Linux a worker has pages of 2 MB, in which a step walks through its large tensors more quickly, and keeps what a
# step has freed for the next one (see `return_memory`).
MEMORY = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"  # 32 MiB, the highest there is
    ":glibc.malloc.trim_threshold=1073741824",
}
_turn = threading.Lock()


def count_workers() -> int:
    """One worker a core that this process may use, if the free memory has room for them; a GPU is shared by four."""
    if torch.cuda.is_available():
        return GPU_WORKERS
    return max(1, min(count_cores(), limit_memory(psutil.virtual_memory().available) // WORKER_MEMORY))


def return_memory() -> None:
    """Give back what glibc keeps of freed memory: after some runs it would be twice what is in use."""
    with suppress(AttributeError, OSError, TypeError):  # Another system.
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def open_executor(workers: int, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Dask's executor, or one of local processes, which end with this one however that ends; and its jobs at a time.

    With no workers, this process does the jobs.
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
            f"Worker processes cannot be made here ({error.strerror}). On Linux they need a /dev/shm with room in it"
            " and the right to write there: mount one (in a container), or ask for it, and run this again."
        ) from error
    try:
        # Else each worker would first run the user's script again, and that would train, too.
        with patch.multiple(sys.modules["__main__"], create=True, __spec__=None, __file__=None):
            yield pool, workers or 1
    except BaseException:
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def choose_context() -> Any:
    """How workers are started. Where a process forks them, it is started here; they have its environment."""
    if START == "forkserver":
        from multiprocessing import forkserver  # Windows has none.

        forkserver.set_forkserver_preload(PRELOADED)
        try:
            with delayed_interrupts(), patch.dict(os.environ, MEMORY | os.environ):
                forkserver.ensure_running()
        except OSError:  # It has a socket in TMPDIR, whose name is too long, or which is on a drive without sockets.
            return multiprocessing.get_context("spawn")
    return multiprocessing.get_context(START)


def connect(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise CourseError("--scheduler needs Dask: python -m pip install -c constraints.txt -e '.[cluster]'") from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # A traceback, where a sentence of ours follows.
    try:
        return Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise CourseError(
            f"There is no Dask scheduler at {scheduler} ({type(error).__name__}). Start one: `dask scheduler`, and give"
            " the address that it prints, such as tcp://HOST:8786."
        ) from error


def call(module: str, function: str, *arguments: Any) -> Any:
    """A worker's job. Were it sent as a function, an exercises.py that cannot be imported would end the process."""
    try:
        job = getattr(import_module(module), function)
    except Exception as error:
        said = blame_exercises(error) or f"importing {module} stopped with {type(error).__name__}: {error}"
        raise CourseError(f"A worker cannot start: {said}. Mend it, save the file, and run this again.") from error
    return job(*arguments)


def is_loss(error: Exception) -> bool:
    """Whether a job ended because its worker did; Dask says so only after it has tried elsewhere."""
    lost = ("KilledWorker", "CommClosedError", "CancelledError", "FutureCancelledError")
    return isinstance(error, BrokenExecutor) or type(error).__name__ in lost


def start_worker() -> None:
    """Make a process one that ignores Ctrl-C, and that ends, by a thread of its own, with its parent.

    That is the process which has started it, or the one which has forked it for that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # It goes to all processes; the parent ends them.
    parent, forked_by = multiprocessing.parent_process(), os.getppid()
    tqdm.set_lock(threading.RLock())  # Its own lock is a semaphore that a killed process would leave behind.

    def end_with_parent() -> None:
        while parent.is_alive() and os.getppid() == forked_by:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: processes of one are quicker than one of several, and sums are the same everywhere.

    Jobs in other threads, as a Dask worker may have them, wait: they would draw from the same random numbers.
    """
    with _turn:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; processes started meanwhile never notice it, though it goes to all: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
