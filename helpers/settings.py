"""What an experiment is made of: model, data, grid, folders and runs; a profile is only the fields it overrides."""

import errno
import json
import math
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

OFFLINE = Path(__file__).parent / "offline"


class CourseError(Exception):
    """A mistake that the user can fix; the message says what was wrong and what to do next."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"error: {self}"]


@dataclass(frozen=True)
class Settings:
    """One experiment.

    `model` and `data` are a hub id or a folder. The grid is Google's for the small BERT models (google-research/bert,
    README of 11 March 2020): every pair of a learning rate and a batch size (examples per step), 4 epochs each.
    `precision` is fp32, bf16, or auto: bf16 on a GPU that has it. Numbers may be NumPy scalars, and grids NumPy arrays.
    """

    profile: str = "quick"
    model: str = str(OFFLINE / "checkpoint")
    data: str = str(OFFLINE / "reviews")
    learning_rates: tuple[float, ...] = (3e-4, 1e-4, 5e-5, 3e-5)
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    epochs: int = 4
    test_size: float = 0.2
    split_seed: int = 3463
    seed: int = 3463
    precision: str = "fp32"
    build: Path = field(default_factory=lambda: find_build_folder())

    def __post_init__(self) -> None:
        kinds = {"model": str, "data": str, "build": Path}
        for name, given in vars(self).items():
            if name in ("learning_rates", "batch_sizes"):  # Lists cannot be hashed; each value counts once.
                values = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
                given = tuple(dict.fromkeys(check_number(name.removesuffix("s"), value) for value in values))
            elif name in RANGES:
                given = check_number(name, given)
            object.__setattr__(self, name, kinds[name](given) if name in kinds else given)
        if self.precision not in PRECISIONS:
            raise CourseError(f"Unknown precision {self.precision!r}. Choose one of: {', '.join(PRECISIONS)}.")

    @property
    def cells(self) -> list[tuple[float, int]]:
        """All (learning rate, batch size) pairs, in the order in which they are tried."""
        return [(rate, size) for rate in self.learning_rates for size in self.batch_sizes]

    @property
    def folder(self) -> Path:
        """Where this profile's runs, checkpoints and results are kept."""
        return self.build / self.profile

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the results, apart from model and data, as JSON values."""
        kept = {name: value for name, value in vars(self).items() if name not in ("profile", "model", "data", "build")}
        return json.loads(json.dumps(kept))

    def __str__(self) -> str:
        return f"profile {self.profile} · model {short_name(self.model)} · data {short_name(self.data)}"


# The numbers that settings, runs and searches are given: whether one must be an integer, its minimum, and its maximum
# (None: no limit).
RANGES: dict[str, tuple[bool, float, float | None]] = {
    "learning_rate": (False, 0, None),
    "batch_size": (True, 1, None),
    "seed": (True, 0, 2**32 - 1),
    "epochs": (False, 0.001, None),
    "reviews": (True, 1, None),
    "tokens": (True, 2, 512),
    "validation": (True, 1, None),
    "head_scale": (False, 0, None),
    "test_size": (False, 0.001, 0.999),
    "split_seed": (True, 0, 2**32 - 1),
    "workers": (True, 0, None),
    "seeds": (True, 1, None),
}


def to_number(given: Any) -> Any:
    """Convert a NumPy or torch scalar to a Python number; everything else stays as it is."""
    with suppress(AttributeError, ValueError, RuntimeError):  # Not theirs, or more than one value.
        return given.item()
    return given


def check_number(name: str, given: Any) -> float:
    """Convert a number of `RANGES` to Python's; raises CourseError if it makes no sense."""
    (whole, least, most), number = RANGES[name], to_number(given)
    fits = isinstance(number, (int, float)) and least <= number <= (most or math.inf) and math.isfinite(number)
    if not fits or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        reach = f"from {least} to {most}" if most else f"of {least} or more"
        raise CourseError(f"`{name}` must be {kind} {reach}, but is {given!r:.80}.")
    return int(number) if whole else number


@dataclass(frozen=True)
class Run:
    """One training run, starting from the settings' model unless `encoder` names another one.

    `reviews` and `validation` say how many reviews are used, from the start of each split (None: all), and `tokens` how
    many tokens of each. `encoder` is `checkpoint`, `random` (the same architecture, not pre-trained), or the hub id or
    folder of another encoder with the same vocabulary. `head_scale` multiplies the randomly initialised weight of the
    classifier. Accuracy is measured after every epoch; with `at_end`, only once, and on training reviews as well.
    Numbers may be NumPy scalars; raises CourseError for values that make no sense (see `RANGES`).
    """

    policy: str
    learning_rate: float = 3e-4
    batch_size: int = 8
    seed: int = 3463
    epochs: float = 4
    reviews: int | None = None
    tokens: int = 512
    validation: int | None = None
    encoder: str = "checkpoint"
    head_scale: float = 1
    at_end: bool = False

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            if name in RANGES and not (given is None and name in ("reviews", "validation")):
                object.__setattr__(self, name, check_number(name, given))
        for name in ("policy", "encoder"):
            if not isinstance(getattr(self, name), str):
                raise CourseError(f"A run's {name} must be one name, but is {getattr(self, name)!r}.")


PROFILES: dict[str, dict[str, Any]] = {
    "quick": {},
    "full": {"model": "prajjwal1/bert-tiny", "data": "stanfordnlp/imdb", "precision": "auto"},
    # A corner of the grid, for graders who re-execute a submission's notebooks.
    "grade": {"learning_rates": (3e-4, 1e-4), "batch_sizes": (32, 64), "epochs": 1},
}

PRECISIONS = ("auto", "fp32", "bf16")

# A hub id that is not listed here is used at its newest version.
REVISIONS = {
    "prajjwal1/bert-tiny": "6f75de8b60a9f8a2fdf7b69cbd86d9e64bcb3837",
    "stanfordnlp/imdb": "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
}


def load_settings(
    profile: str | None = None, model: str | None = None, data: str | None = None, precision: str | None = None
) -> Settings:
    """Build the settings from the arguments, else from COURSE_PROFILE, COURSE_MODEL and so on, else from `quick`."""
    profile = profile or _variable("PROFILE") or "quick"
    if profile not in PROFILES:
        raise CourseError(f"Unknown profile {profile!r}. Choose one of: {', '.join(PROFILES)}.")
    settings = replace(Settings(profile=profile), **PROFILES[profile])
    for name, value in (("model", model), ("data", data), ("precision", precision)):
        if value := value or _variable(name.upper()):
            settings = replace(settings, **{name: value if name == "precision" else local_folder(value)})
    return settings


def _variable(name: str) -> str:
    return os.environ.get(f"COURSE_{name}", "").strip("'\" ")  # Windows and Docker keep the quotes of a value.


def local_folder(name: str | Path) -> str:
    """Make an existing path absolute; it may also be relative to the project's folder, above the notebooks'."""
    for base in (Path.cwd(), project_folder()):
        path = base / os.path.expanduser(name)
        if is_there(path):  # A link keeps its name, which may be that of a split, and its own neighbours.
            return str(path.parent.resolve() / path.name if path.is_symlink() else path.resolve())
    return os.fspath(name).rstrip("/")


def is_there(path: str | Path) -> bool:
    """Whether the file or folder exists; raises CourseError if it cannot be accessed or listed."""
    try:
        os.stat(path)
        if os.path.isdir(path):
            os.stat(os.path.join(path, "."))
            os.scandir(path).close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise CourseError(f"Cannot read {path}: {error.strerror}. Give another, or make it readable.") from error
    return True


def is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", os.fspath(name)))


def short_name(name: str) -> str:
    """Name a model or data set without the path on this machine."""
    if is_hub_id(name):
        return name
    return f"offline {Path(name).name}" if Path(name).parent == OFFLINE else Path(name).name


def project_folder() -> Path:
    """The working folder, or its parent if that is `notebooks/` (but a project folder may have this name, too)."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise CourseError(
            "The folder in which this was started no longer exists. Change to the assignment's folder again; in a"
            " notebook: open it from there, and restart its kernel."
        ) from None
    return here.parent if here.name == "notebooks" and not (here / "helpers").is_dir() else here


def find_build_folder() -> Path:
    """COURSE_BUILD, or `build`; relative to the project's folder, for notebooks and commands alike."""
    return project_folder() / os.path.expanduser(_variable("BUILD") or "build")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a temporary file, then rename it, so that a full disk or a killed process leaves the old file intact."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        advice = "Free some disk space. " if error.errno == errno.ENOSPC else ""
        raise CourseError(
            f"Could not write {path}: {error.strerror}. {advice}What was there before is unchanged."
        ) from error


def set_aside(path: Path, name: Path | None = None) -> Path:
    """Rename a damaged file or folder to `<name>-unreadable-<time>`, so that nothing is lost; returns the new path."""
    name = name or path
    suffix = "" if path.is_dir() else path.suffix
    stem = name.name.removesuffix(suffix)
    aside = name.with_name(f"{stem}-unreadable-{time.strftime('%Y%m%d-%H%M%S')}{suffix}")
    os.replace(path, aside)
    return aside
