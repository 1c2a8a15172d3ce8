"""What an experiment is made of: model, data, grid, folders and runs; a profile is only the fields it overrides."""

import errno
import json
import math
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

OFFLINE = Path(__file__).parent / "offline"


class CourseError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what to do next."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"error: {self}"]


@dataclass(frozen=True)
class Settings:
    """One experiment.

    `model` and `data` are a hub id or a folder. The grid is Google's for the small BERT models (google-research/bert,
    README of 11 March 2020): every pair of a learning rate and a batch size (examples a step), 4 epochs each.
    `precision` is fp32, bf16, or auto: bf16 on a GPU that has it. Numbers may be numpy's, a grid's also in an array.
    """

    profile: str = "quick"
    model: str = str(OFFLINE / "checkpoint")
    data: str = str(OFFLINE / "reviews")
    learning_rates: tuple[float, ...] = (3e-4, 1e-4, 5e-5, 3e-5)
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    epochs: int = 4
    max_length: int = 512
    test_size: float = 0.2
    split_seed: int = 3463
    seed: int = 3463
    precision: str = "fp32"
    build: Path = field(default_factory=lambda: find_build_folder())

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            if name in ("learning_rates", "batch_sizes"):  # A list would do for a grid, but has no hash.
                given = tuple(map(to_number, given if hasattr(given, "__iter__") else [given]))
            kind = {"model": str, "data": str, "build": Path}.get(name, to_number)
            object.__setattr__(self, name, kind(given))
        for cell in self.cells:
            Run("full", *cell, self.seed, self.epochs)  # It refuses what makes no sense.
        if self.precision not in PRECISIONS:
            raise CourseError(f"Unknown precision {self.precision!r}. Choose one of: {', '.join(PRECISIONS)}.")

    @property
    def cells(self) -> list[tuple[float, int]]:
        """All (learning rate, batch size) pairs, in the order in which they are tried."""
        return [(rate, size) for rate in self.learning_rates for size in self.batch_sizes]

    @property
    def folder(self) -> Path:
        """Where this profile's study, checkpoints and results are kept."""
        return self.build / self.profile

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the results, apart from model and data, as JSON values."""
        kept = {name: value for name, value in vars(self).items() if name not in ("profile", "model", "data", "build")}
        return json.loads(json.dumps(kept))

    def __str__(self) -> str:
        return f"profile {self.profile} · model {short_name(self.model)} · data {short_name(self.data)}"


def to_number(given: Any) -> Any:
    """A number of numpy's or torch's as Python's own; everything else as it is."""
    with suppress(AttributeError, ValueError, RuntimeError):  # Only theirs have it, and several have not.
        return given.item()
    return given


# Of a run's numbers: whether it is whole, the least, and the most, where there is one.
RANGES: dict[str, tuple[bool, float, int | None]] = {
    "learning_rate": (False, 0, None),
    "batch_size": (True, 1, None),
    "seed": (True, 0, 2**32 - 1),
    "epochs": (False, 0.001, None),
    "reviews": (True, 1, None),
    "tokens": (True, 2, 512),
    "validation": (True, 1, None),
    "head_scale": (False, 0, None),
}


@dataclass(frozen=True)
class Run:
    """One training, from the settings' model unless `encoder` names another one.

    `reviews` are the first ones of the training split and `validation` those of the validation split (None: all), of
    which the first `tokens` are read. `encoder` is `checkpoint`, `random` (the same architecture, nothing pre-trained)
    or the hub id or folder of another one with the same vocabulary. `head_scale` multiplies the randomly drawn weight
    of the classifier. The accuracy is measured after every epoch, or once, `at_end`, and then on reviews that were
    trained on as well. Numbers may be numpy's; CourseError where one makes no sense (see `RANGES`).
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
        for name, (whole, least, most) in RANGES.items():
            given = getattr(self, name)
            if given is None and name in ("reviews", "validation"):
                continue
            number = to_number(given)
            fits = isinstance(number, (int, float)) and least <= number <= (most or math.inf) and math.isfinite(number)
            if not fits or (whole and number != int(number)):
                kind = "a whole number" if whole else "a number"
                reach = f"from {least} to {most}" if most else f"of {least} or more"
                raise CourseError(f"A run's {name} must be {kind} {reach}, but is {given!r}.")
            object.__setattr__(self, name, int(number) if whole else number)
        for name in ("policy", "encoder"):
            if not isinstance(getattr(self, name), str):
                raise CourseError(f"A run's {name} must be one name, but is {getattr(self, name)!r}.")


PROFILES: dict[str, dict[str, Any]] = {
    "quick": {},
    "full": {"model": "prajjwal1/bert-tiny", "data": "stanfordnlp/imdb", "precision": "auto"},
    # A corner of the grid, with which graders re-execute a submission's notebooks.
    "grade": {"learning_rates": (3e-4, 1e-4), "batch_sizes": (32, 64), "epochs": 1},
}

PRECISIONS = ("auto", "fp32", "bf16")

# A hub id without a revision here is taken at its newest version.
REVISIONS = {
    "prajjwal1/bert-tiny": "6f75de8b60a9f8a2fdf7b69cbd86d9e64bcb3837",
    "stanfordnlp/imdb": "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
}


def load_settings(
    profile: str | None = None, model: str | None = None, data: str | None = None, precision: str | None = None
) -> Settings:
    """Build the settings from the arguments, else from COURSE_PROFILE, COURSE_MODEL and so on, else as `quick` has."""
    profile = profile or os.environ.get("COURSE_PROFILE") or "quick"
    if profile not in PROFILES:
        raise CourseError(f"Unknown profile {profile!r}. Choose one of: {', '.join(PROFILES)}.")
    settings = replace(Settings(profile=profile), **PROFILES[profile])
    for name, value in (("model", model), ("data", data), ("precision", precision)):
        if value := value or os.environ.get(f"COURSE_{name.upper()}"):
            settings = replace(settings, **{name: value if name == "precision" else local_folder(value)})
    return settings


def local_folder(name: str | Path) -> str:
    """Make the path of what exists absolute, also when it is given from the notebooks' parent folder."""
    for base in (Path.cwd(), project_folder()):
        path = base / os.path.expanduser(name)
        if is_there(path):
            return str(path.resolve())
    return os.fspath(name).rstrip("/")


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder; CourseError where one may not look at it, or into it."""
    try:
        os.stat(path)
        if os.path.isdir(path):
            os.stat(os.path.join(path, "."))
            os.scandir(path).close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise CourseError(f"Cannot look at {path}: {error.strerror}. Give another, or make it readable.") from error
    return True


def is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", os.fspath(name)))


def short_name(name: str) -> str:
    """Name a model or data set without any machine's path."""
    if is_hub_id(name):
        return name
    return f"offline {Path(name).name}" if Path(name).parent == OFFLINE else Path(name).name


def project_folder() -> Path:
    """The working folder, or its parent when the kernel runs in `notebooks/`; a project may itself be called that."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise CourseError(
            "The folder that this was started in is no longer there. Enter the assignment's folder again; in a"
            " notebook: open it from there, and restart its kernel."
        ) from None
    return here.parent if here.name == "notebooks" and not (here / "helpers").is_dir() else here


def find_build_folder() -> Path:
    """COURSE_BUILD, else `build`; a relative one lies in the project's folder, for notebooks and commands alike."""
    return project_folder() / os.path.expanduser(os.environ.get("COURSE_BUILD") or "build")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside, then rename, so that a full disk or a kill leaves the old file whole."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        advice = "Make room. " if error.errno == errno.ENOSPC else ""
        raise CourseError(
            f"Could not write {path}: {error.strerror}. {advice}What was there before is unchanged."
        ) from error


def set_aside(path: Path, name: Path | None = None) -> Path:
    """Rename something damaged to `<name>-unreadable-<time>`, so that nothing is lost; returns the new path."""
    name = name or path
    stem, suffix = (name.name, "") if path.is_dir() else (name.stem, path.suffix)
    aside = name.with_name(f"{stem}-unreadable-{time.strftime('%Y%m%d-%H%M%S')}{suffix}")
    os.replace(path, aside)
    return aside
