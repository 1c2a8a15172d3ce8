"""Results files: measured figures as JSON, with the provenance without which they mean nothing."""

import ast
import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from helpers.settings import OFFLINE, CourseError, write_atomically

SCHEMA = 1
PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "optuna", "numpy")


def save_results(results: dict[str, Any], path: Path) -> None:
    write_atomically(path, json.dumps({"schema": SCHEMA} | results, indent=1, ensure_ascii=False) + "\n")


def load_results(path: Path) -> dict[str, Any]:
    """Read a results file; raises CourseError where it is missing, damaged or of another schema."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(f"There is no results file {path}. Run `python -m helpers assignment` first.") from None
    except (ValueError, OSError) as error:
        raise CourseError(
            f"The results file {path} cannot be read ({error}). Move it aside and run `python -m helpers assignment`:"
            " finished cells are not trained again."
        ) from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA or "policies" not in results:
        raise CourseError(f"{path} is not a results file of schema {SCHEMA}. Move it aside and run the sweep again.")
    return results


def published() -> dict[str, Any]:
    """The figures of the document that this project starts from: real bert-tiny, real IMDb."""
    return json.loads((OFFLINE / "published.json").read_text(encoding="utf-8"))


def fingerprint_code(*paths: Path) -> str:
    """Hash what the files' code does; it is read, not run, and SyntaxError says where it does not compile.

    Hashed are the syntax trees without docstrings, so that comments and layout change nothing, and in a form that is
    the same under every Python version.
    """
    outlines = [_outline(ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    return hashlib.sha256(json.dumps(outlines).encode()).hexdigest()[:16]


def list_recipe(exercises: Path | None = None) -> list[Path]:
    """The files that decide how a cell is trained, with a student's `exercises` or the installed ones."""
    folder = Path(__file__).parent
    return [exercises or folder / "exercises.py", *(folder / f"{name}.py" for name in ("models", "speed", "training"))]


def _outline(node: Any) -> Any:
    """A syntax tree as lists and texts, without positions, docstrings and empty fields."""
    if isinstance(node, list):
        return [_outline(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *([name, _outline(value)] for name, value in fields)]


def describe_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB) and GPU of this machine."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def peak_memory_gb() -> float:
    """The most memory that this process has held so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
