"""Where submissions are graded: a copy of the course without solutions, and the servers of sandboxed runs."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from helpers.instructor import sandbox
from helpers.settings import CourseError

PACKAGE = Path(__file__).parents[1]
LEFT_OUT = ("instructor", "exercises.py", "__pycache__", "*.pyc", "*.part")


class Workshop:
    """A temporary folder with all that grading needs; use it in a `with` statement.

    `degree` is that of the isolation (see `sandbox`), and `reasons` say why it is not a better one. Its folder can be
    entered by everybody but listed by nobody, so a sandbox finds in it only what it is told of.
    """

    def __init__(self, degree: str = "auto"):
        if not sys.platform.startswith("linux"):
            raise CourseError("Grading runs untrusted code and needs Linux for that: a container or Colab will do.")
        try:
            self.degree, self.reasons = sandbox.find_degree(degree)
        except OSError as error:
            raise CourseError(f"Untrusted code cannot be kept apart here, so nothing is graded. {error}.") from error
        if self.degree == "user" and can_everybody_read(PACKAGE / "exercises.py"):
            self.reasons = [*self.reasons, "THE SOLUTION CAN BE READ by what is graded: chmod 700 this folder first"]
        self.folder = Path(tempfile.mkdtemp(prefix="grading-"))
        self.folder.chmod(0o711)
        self.course = self.folder / "course"
        self.servers: dict[bool, tuple[subprocess.Popen, str]] = {}
        self.lock = threading.Lock()
        self.stopped = False

    def __enter__(self) -> "Workshop":
        shutil.copytree(PACKAGE, self.course / "helpers", ignore=shutil.ignore_patterns(*LEFT_OUT))
        open_to_all(self.course)
        return self

    def stop(self) -> None:
        """End all that is running, and run nothing more."""
        self.stopped = True
        for with_torch in (True, False):
            self.close_server(with_torch)

    def __exit__(self, *error: Any) -> None:
        self.stop()
        sandbox.remove_tree(str(self.folder))

    def make_folder(self) -> Path:
        """A new folder that sandboxes can enter if they are told its name."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o755)
        return folder

    def prepare(self, seed: int) -> tuple[dict[str, Any], dict[str, Any], Path]:
        """Fresh inputs and expectations (see `probe.prepare`), and the folder in which their models lie."""
        folder = self.make_folder()
        answer = self._ask(True, {"kind": "prepare", "seed": seed, "folder": str(folder)})
        return answer["given"], answer["expected"], folder

    def run(
        self, kind: str, limits: sandbox.Limits, readable: tuple[Path, ...], environment: dict[str, str], **job: Any
    ) -> sandbox.Outcome:
        """Run one of `probe`'s sandboxed jobs; a server that was ended meanwhile counts as a broken sandbox."""
        job |= {"kind": kind, "degree": self.degree, "base": str(self.folder), "limits": asdict(limits)}
        job |= {"readable": [str(path) for path in (self.course, *readable)], "environment": environment}
        try:
            answer = self._ask(kind == "observe", job)
        except CourseError as error:
            if self.stopped:  # Nothing is known of this run, so nothing must be said of it.
                raise
            return sandbox.Outcome(reason="sandbox", output=str(error))
        return sandbox.Outcome(**{part.name: answer[part.name] for part in fields(sandbox.Outcome)})

    def close_server(self, with_torch: bool) -> None:
        """End a server, which gives its memory back; the next job starts another one."""
        with self.lock:
            process, address = self.servers.pop(with_torch, (None, ""))
        if process is not None:
            os.close(int(address.split("/")[4]))
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            process.stdout.close()

    def _ask(self, with_torch: bool, job: dict[str, Any]) -> dict[str, Any]:
        for _ in range(2):
            with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self._address(with_torch))
                connection.sendall(json.dumps(job).encode() + b"\n")
                with connection.makefile("r") as lines:
                    answer = json.loads(lines.read())
                if "failed" not in answer:
                    return answer
                raise CourseError(f"The grader's server failed: {answer['failed']}")
            self.close_server(with_torch)
        raise CourseError("The grader's server of sandboxes was ended twice while it ran this job.")

    def _address(self, with_torch: bool) -> str:
        """Start the server if it does not run; returns its socket."""
        with self.lock:
            if self.stopped:
                raise CourseError("Grading was stopped.")
            if with_torch not in self.servers:
                private = tempfile.mkdtemp(dir=self.folder)  # Nobody but this user may enter it.
                # A socket's path has 107 characters at most, and a temporary folder's may be longer.
                address = f"/proc/self/fd/{os.open(private, os.O_PATH)}/socket"
                command = [sys.executable, str(Path(__file__).with_name("probe.py")), "socket"]
                environment = sandbox.clean_environment(sandbox.SCRATCH, PYTHONPATH=str(self.course))
                process = subprocess.Popen(
                    command + ["--torch"] * with_torch,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    cwd=private,
                )
                if process.stdout.readline() != b"ready\n":
                    process.kill()
                    process.wait()
                    raise CourseError(
                        "The grader's server of sandboxes does not start. `python -m helpers doctor` looks at the"
                        " installation."
                    )
                self.servers[with_torch] = process, address
            return self.servers[with_torch][1]


def can_everybody_read(path: Path) -> bool:
    """Whether other users get at a file: it and every folder above it must let them."""
    try:
        above = all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
        return above and bool(path.stat().st_mode & 0o004)
    except OSError:
        return False


def open_to_all(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
