"""Check what a machine needs for the assignment; say what was found, and how to fix each problem.

Each check imports the packages that it uses: any of them may be missing or broken.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from helpers.settings import CourseError, Settings, is_hub_id, project_folder

DISTRIBUTION = "bitfit-assignment"
# The full path: where the environment is not activated, `python` is another one, or missing.
PYTHON = f'"{sys.executable}"' if " " in sys.executable else sys.executable
INSTALL = f"{PYTHON} -m pip install -c constraints.txt -e ."
BUILD = "Set COURSE_BUILD to a folder that you can write to."
VARIABLES = [f"COURSE_{name}" for name in ("PROFILE", "MODEL", "DATA", "BUILD", "PRECISION", "PROGRESS")]


class Doubt(CourseError):
    """Something that works, but that the user should know about."""


def examine(settings: Settings) -> int:
    """Run every check and print a line for each; returns how many failed. A failed check does not stop the others."""
    verdicts = []
    for what, check in CHECKS.items():
        try:
            verdict, found = "ok", check(settings)
        except CourseError as error:
            verdict, found = "warn" if isinstance(error, Doubt) else "FAIL", str(error)
        except Exception as error:  # On a broken machine, libraries can raise anything.
            said = " ".join(str(error).split())[:300]
            verdict, found = "FAIL", f"{type(error).__name__}: {said}. Install the packages again: {INSTALL}"
        verdicts.append(verdict)
        print(f"{verdict:4}  {what:12}  {found}", flush=True)
    failed = verdicts.count("FAIL")
    more = " Fix the first FAIL first; it may cause the others." if failed else ""
    print(f"\n{len(verdicts)} checks: {failed} FAIL, {verdicts.count('warn')} warn.{more}")
    return failed


def check_variables(settings: Settings) -> str:
    found = sorted(name for name in os.environ if name.startswith("COURSE_"))
    if strange := [name for name in found if name not in VARIABLES]:
        raise Doubt(f"Unknown variables: {', '.join(strange)}. The course reads only {', '.join(VARIABLES)}.")
    return ", ".join(f"{name}={os.environ[name]}" for name in found) or "no COURSE_… variable is set"


def check_versions(settings: Settings) -> str:
    """Compare the versions of Python and all packages with the ranges that the installed course requires."""
    from packaging.requirements import Requirement

    course, python = metadata.distribution(DISTRIBUTION), ".".join(map(str, sys.version_info[:3]))
    wanted = [f"Python{course.metadata['Requires-Python']}", *(course.requires or [])]
    found, wrong = [], []
    for each in map(Requirement, wanted):
        if each.marker and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            version = python if each.name == "Python" else metadata.version(each.name)
        except metadata.PackageNotFoundError:
            version = "is not installed"
        found.append(f"{each.name} {version}")
        if version == "is not installed" or not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{found[-1]} (needed: {each.specifier})")
    if wrong:
        if os.environ.get("PYTHONPATH"):
            wrong[-1] += "; unset PYTHONPATH, whose packages take precedence over this environment's"
        raise CourseError(f"{', '.join(wrong)}. Install it (for another Python, in a new environment): {INSTALL}")
    return f"{', '.join(found)}; in {sys.prefix}"


def check_notebooks(settings: Settings) -> str:
    """Whether the course's notebooks have kernels on this machine, and these import the helpers that students edit."""
    from jupyter_client.kernelspec import KernelSpecManager

    from helpers.answers import find_notebooks, read_notebook

    specs, kernels, folder = KernelSpecManager().get_all_specs(), {"python3"}, find_notebooks()
    for path in folder.glob("0*.ipynb"):
        kernel = (read_notebook(path).metadata.get("kernelspec") or {}).get("name", "python3")
        kernels.add(kernel)
        if kernel not in specs:
            raise CourseError(
                f"{path.name} asks for the kernel {kernel}, which is not on this machine. Open the notebook, choose the"
                " kernel Python 3 (Kernel > Change Kernel), and save it."
            )
    for kernel in sorted(kernels):
        python = specs[kernel]["spec"]["argv"][0]
        python = sys.executable if python == Path(python).name else python  # Jupyter does so, too.
        command = [python, "-c", "import json, helpers; print(json.dumps(helpers.__path__[0]))"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
            imported = Path(json.loads(done.stdout))
        except (OSError, ValueError, subprocess.SubprocessError):  # Its Python is missing, or cannot import helpers.
            imported = Path("nowhere")
        if imported.resolve() != (project_folder() / "helpers").resolve():
            unset = ", and unset PYTHONPATH" if os.environ.get("PYTHONPATH") else ""
            raise CourseError(
                f"The kernel {kernel} ({python}) imports helpers from {imported}, not from this folder. Here, run:"
                f" {INSTALL} && {PYTHON} -m ipykernel install --sys-prefix --name {kernel}{unset}"
            )
    return f"kernel {', '.join(sorted(kernels))}; helpers from {imported}"


def check_inputs(settings: Settings) -> str:
    """Load the model and the reviews of this profile; nothing is downloaded."""
    from helpers.hub import find_cached

    for option, name, kind in (("--model", settings.model, "model"), ("--data", settings.data, "dataset")):
        if is_hub_id(name) and not Path(name).is_dir() and not find_cached(name, kind):
            fetch = f"{PYTHON} -m helpers prefetch {option} {name}"
            raise CourseError(f"{name} is no folder here and not in the hub's cache. With a network, run: {fetch}")
    return load_inputs(settings)


def load_inputs(settings: Settings) -> str:
    """Load the model and the reviews, from the hub if necessary, and say how large they are."""
    from helpers.data import load_reviews
    from helpers.models import count_parameters, load_classifier, load_tokenizer

    load_tokenizer(settings.model)
    parameters = count_parameters(load_classifier(settings.model))
    reviews = [f"{len(rows):,} {split}" for split, rows in load_reviews(settings).items()]
    return f"{parameters:,} parameters; {', '.join(reviews)} reviews"


def check_network(settings: Settings) -> str:
    """Ask the hub for a page, as its own library does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    from helpers.hub import PROXIES, first_line

    needed = "Only what is not in the hub's cache needs a network; the quick profile never does."
    if constants.HF_HUB_OFFLINE:
        raise Doubt(f"not tried, since HF_HUB_OFFLINE is set. {needed}")
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception as error:  # Proxies alone cause five kinds of errors, such as ImportError.
        raise Doubt(f"{constants.ENDPOINT} does not answer ({first_line(error)}; {PROXIES}). {needed}") from error
    return "the hub answers"


def check_machine(settings: Settings) -> str:
    import psutil
    import torch

    from helpers.prepare import choose_precision
    from helpers.results import limit_memory

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU (none is needed)"
    free = limit_memory(psutil.virtual_memory().available) / 2**30
    found = f"{device}; precision auto is {choose_precision('auto')} here; {free:.1f} GiB of memory free"
    if free < 3:
        raise Doubt(f"{found}. Close other programs, or train with `{PYTHON} -m helpers assignment --workers 1`.")
    return found


def check_build_folder(settings: Settings) -> str:
    folder, needed = settings.folder, 0.5 if settings.profile == "quick" else 3
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    try:
        with tempfile.TemporaryDirectory(dir=there):
            free = shutil.disk_usage(there).free / 2**30
    except OSError as error:
        raise CourseError(f"Cannot write in {there}: {error.strerror}. {BUILD}") from error
    if free < needed:
        raise CourseError(f"{free:.1f} GiB free in {there}, needed: {needed}. Free some disk space, or: {BUILD}")
    return f"{folder} is writable; {free:.1f} GiB free, needed: {needed}"


CHECKS: dict[str, Callable[[Settings], str]] = {
    "variables": check_variables,
    "versions": check_versions,
    "notebooks": check_notebooks,
    "inputs": check_inputs,
    "machine": check_machine,
    "build folder": check_build_folder,
    "network": check_network,
}
