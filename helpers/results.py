"""Results files, all in one format: `provenance`, without which figures mean nothing, and `runs`, one record per run.

A run's record has the fields of `settings.Run` and what was measured: `history` (for each epoch: `epoch`, `loss`,
`validation_accuracy`, `seconds`), `validation_accuracy` (after the last epoch), `trainable_parameters` and `seconds`.
A policy's best run also has `test` (`accuracy`, `n`, `mistakes`, `bias_movement`); a lab's runs also have
`train_accuracy` and `bias_movement`.
"""

import ast
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from traceback import extract_tb
from typing import Any

from helpers.settings import OFFLINE, CourseError, write_atomically

SCHEMA = 2
EXERCISES = Path(__file__).with_name("exercises.py")  # the file that a student edits
# The course's files and the student's functions that determine how a run is trained.
RECIPE = ("models", "prepare", "speed", "training")
TRAINING = ("preprocess_dataset", "init_model", "init_trainer")
# Where the kernel mounts control groups (version 1 or 2), which limit a container, and which groups this process is in.
CONTAINER, GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "optuna", "numpy")


def save_results(results: dict[str, Any], path: Path) -> None:
    """Write a results file, one line per run."""
    head = json.dumps({"schema": SCHEMA} | results | {"runs": []}, indent=1, ensure_ascii=False)
    runs = ",\n".join(json.dumps(run, ensure_ascii=False) for run in results["runs"])
    write_atomically(path, head.replace('"runs": []', f'"runs": [\n{runs}\n]') + "\n")


def load_results(path: str | Path) -> dict[str, Any]:
    """Read a results file; raises CourseError if it is missing, damaged or in another format."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if results["schema"] != SCHEMA:
            raise ValueError(f"schema {results['schema']}")
        list_policies(results)
    except FileNotFoundError:
        raise CourseError(
            f"There is no results file {path}. First run notebook 03, or `python -m helpers assignment`."
        ) from None
    except (ValueError, OSError, LookupError, TypeError) as error:
        raise CourseError(
            f"The results file {path} cannot be read, or comes from another version of the course ({error!r:.200})."
            " Rename it and run `python -m helpers assignment`: finished runs are not trained again."
        ) from error
    return results


@contextmanager
def expecting_a_search(name: str) -> Iterator[None]:
    """Turn errors from reading a results file that is not that of a complete search into one CourseError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise CourseError(
            f"{name} is damaged, or does not contain the results of a search ({error!r}). Rename it and run the search"
            " of notebook 03 again."
        ) from error


def list_policies(results: dict[str, Any]) -> list[str]:
    """The policies of a results file's runs, each once, in order of appearance."""
    return list(dict.fromkeys(run["policy"] for run in results["runs"]))


def select_runs(results: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """The runs whose fields have these values: `select_runs(results, policy="full", seed=0)`."""
    return [run for run in results["runs"] if fields.items() <= run.items()]


def read_search(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A search's runs; CourseError if there are none, or if these are a lab's runs, or costs."""
    if not results["runs"] or any("train_accuracy" in run or "history" not in run for run in results["runs"]):
        raise CourseError("These are no results of a search: use `lab_plots` for a lab's, `tabulate_costs` for costs.")
    return results["runs"]


def reached(run: dict[str, Any]) -> float:
    """The number of epochs that a run was trained for."""
    return run["history"][-1]["epoch"]


def is_whole(run: dict[str, Any]) -> bool:
    """Whether a run was trained to its last epoch; `--prune` stops some earlier."""
    return reached(run) >= run["epochs"]


def choose_best(runs: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Of the fully trained runs, the one with the highest validation accuracy; the first in case of a tie."""
    return max(filter(is_whole, runs), key=lambda run: run["validation_accuracy"], default=None)


def best_run(results: dict[str, Any], policy: str) -> dict[str, Any]:
    """A policy's best run, the one that was tested."""
    return choose_best(select_runs(results, policy=policy))


def published() -> dict[str, Any]:
    """The figures of the document that this project starts from: real bert-tiny, real IMDb."""
    return json.loads((OFFLINE / "published.json").read_text(encoding="utf-8"))


def fingerprint_code(exercises: Path = EXERCISES, functions: Iterable[str] = TRAINING) -> str:
    """Hash the code that determines a result: the course's, and the student's `functions` with all that they refer to.

    The code is read, not run; SyntaxError is raised if it does not compile. The hash is that of the syntax trees
    without docstrings, in a form that is the same in every Python version: comments and layout do not matter, nor do
    functions that training never calls.
    """
    folder = Path(__file__).parent
    student = ast.parse(exercises.read_bytes(), exercises)
    outlines = [_outline(_find_reached(student, functions))]
    outlines += [_outline(ast.parse((folder / f"{name}.py").read_bytes())) for name in RECIPE]
    return hashlib.sha256(json.dumps(outlines).encode()).hexdigest()[:16]


def _find_reached(module: ast.Module, names: Iterable[str]) -> ast.Module:
    """The statements of a module that define names used by these functions, and those that define no name."""
    names, known, statements = set(names), None, _sort_imports(module.body)
    while names != known:
        known = names
        body = [each for each in statements if not (defined := defined_by(each)) or defined & known]
        body = [each for each in body if counts_on_import(each)]
        names = known | {node.id for each in body for node in ast.walk(each) if isinstance(node, ast.Name)}
    return ast.Module(body, type_ignores=[])


def _sort_imports(statements: list[ast.stmt]) -> list[ast.stmt]:
    """The imports first, sorted, and one per name, so that a further import does not change the others."""
    imports = [each for each in statements if isinstance(each, (ast.Import, ast.ImportFrom))]
    single = [type(each)(**dict(ast.iter_fields(each)) | {"names": [name]}) for each in imports for name in each.names]
    return sorted(single, key=ast.unparse) + [each for each in statements if each not in imports]


def counts_on_import(statement: ast.AST) -> bool:
    """Whether a statement does anything on import: not a bare string, nor an `if __name__ == "__main__":`."""
    if isinstance(statement, ast.If) and not statement.orelse:
        return ast.unparse(statement.test) not in ("__name__ == '__main__'", "'__main__' == __name__")
    return not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def defined_by(statement: ast.stmt) -> set[str]:
    """The names that a statement defines in the module."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    nodes = ast.walk(statement) if isinstance(statement, (ast.Assign, ast.AnnAssign)) else ()
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def blame_exercises(error: BaseException) -> str | None:
    """What went wrong in helpers/exercises.py, and in which line; None if the error came from elsewhere."""
    path = str(EXERCISES)
    own = [(frame.name, frame.lineno) for frame in extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        own = [("<module>", error.lineno)]
    if not own:
        return None
    name, line = own[-1]
    reason = next(iter(str(error).splitlines()), "")
    what = name.replace("<module>", "the import")
    return f"{what} stopped in line {line} of helpers/exercises.py with {type(error).__name__}: {reason}".rstrip(": ")


def _outline(node: Any) -> Any:
    """A syntax tree as lists and strings, without positions, docstrings and empty fields."""
    if isinstance(node, list):
        return [_outline(part) for part in node if counts_on_import(part)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *([name, _outline(value)] for name, value in fields)]


def describe_origin(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Versions and machine of these runs, and how long they took: the sum over their records, all sessions together."""
    return {
        "versions": describe_versions(),
        "hardware": describe_machine(),
        "threads": 1,
        "workers": max(run.get("workers", 1) for run in runs),
        "wall_seconds": round(sum(run["seconds"] / run.get("workers", 1) for run in runs), 1),
        "finished": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def describe_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB) and GPU of this machine."""
    import psutil
    import torch

    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def count_cores() -> int:
    """The number of cores that this process may use, limited by its container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [*_read_limits("", "cpu.max"), *_read_limits("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return min([cores, *(math.ceil(quota / period) for quota, period in limits if quota > 0)])


def limit_memory(found: int) -> int:
    """`found` bytes of memory, or fewer if this container's limit is lower."""
    limits = [*_read_limits("", "memory.max"), *_read_limits("memory", "memory.limit_in_bytes")]
    return min([found, *(number for limit in limits for number in limit)])


def _read_limits(controller: str, *names: str) -> Iterator[list[int]]:
    """The limits in these files, for this process's control groups and their parents (set by containers or Slurm)."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    own = [PurePosixPath(line.split(":", 2)[-1]) for line in lines]
    for group in {"/", *(str(each) for path in own for each in (path, *path.parents))}:
        folder = CONTAINER / controller / group.lstrip("/")
        with suppress(OSError, ValueError):  # No such file, or `max`: no limit.
            yield [int(number) for number in " ".join((folder / name).read_text() for name in names).split()]


def peak_memory_gb() -> float:
    """The peak memory of this process so far; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
