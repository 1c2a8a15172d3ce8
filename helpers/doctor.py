"""What a machine needs for the assignment: look at each thing, say what was found, and how to mend what is wrong."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from helpers.hub import call_hub, find_cached, first_line
from helpers.settings import CourseError, Settings, find_build_folder, is_hub_id, load_settings, project_folder

DISTRIBUTION = "bitfit-assignment"
INSTALL = "python -m pip install -c constraints.txt -e ."
BUILD = "Set COURSE_BUILD to a folder in which you may write."
VARIABLES = tuple(f"COURSE_{name}" for name in ("PROFILE", "MODEL", "DATA", "BUILD", "PRECISION", "PROGRESS"))


class Finding(NamedTuple):
    """One line of the report; `verdict` is ok, warn (it will do, but) or FAIL (something will not work)."""

    what: str
    verdict: str
    found: str
    fix: str = ""


def examine(profile: str | None = None, model: str | None = None, data: str | None = None) -> list[Finding]:
    """Run every check; one that stops with an error is itself a finding, and never stops the others."""
    findings: list[Finding] = []
    try:
        settings = load_settings(profile, model, data)
    except CourseError as error:
        findings.append(Finding("settings", "FAIL", str(error), "Change the flag or the COURSE_… variable."))
        settings = Settings()
    for name, (check, fix) in CHECKS.items():
        try:
            # A check gives what it found in one text, or findings of its own.
            seen = check(settings)
            findings += [Finding(name, "ok", seen)] if isinstance(seen, str) else seen
        except CourseError as error:
            findings.append(Finding(name, "FAIL", str(error), fix))
        except Exception as error:  # A broken machine breaks libraries in ways that nobody can list.
            findings.append(Finding(name, "FAIL", f"{type(error).__name__}: {first_line(error)}", fix or INSTALL))
    return findings


def report(findings: list[Finding]) -> str:
    """One line a check, and one that says how many need attention."""
    width = max(len(finding.what) for finding in findings)
    lines = [
        f"{each.verdict:4}  {each.what:{width}}  {each.found}{f'  Fix: {each.fix}' if each.fix else ''}"
        for each in findings
    ]
    failed, warned = ([each.verdict for each in findings].count(verdict) for verdict in ("FAIL", "warn"))
    more = " Mend the first FAIL first; others may follow from it." if failed else ""
    return "\n".join([*lines, "", f"{len(findings)} checks: {failed} FAIL, {warned} warn.{more}"])


def read_requirements() -> tuple[str, list[Requirement]]:
    """The ranges of Python and of the packages, from the installed course, else from pyproject.toml."""
    try:
        found = metadata.distribution(DISTRIBUTION)
        python, lines = found.metadata["Requires-Python"], found.requires or []
    except metadata.PackageNotFoundError:
        text = (project_folder() / "pyproject.toml").read_text(encoding="utf-8")
        python = re.search(r'^requires-python = "(.*)"', text, re.MULTILINE)[1]
        lines = re.findall(r'"([^"]+)"', re.search(r"(?s)^dependencies = \[\n(.*?)^\]", text, re.MULTILINE)[1])
    return python, [each for each in map(Requirement, lines) if not each.marker or each.marker.evaluate({"extra": ""})]


def check_versions(settings: Settings) -> Iterator[Finding]:
    wanted, requirements = read_requirements()
    version = sys.version.split()[0]
    python = SpecifierSet(wanted).contains(version, prereleases=True)
    fix = "" if python else "Install such a Python, and make the environment anew with it."
    yield Finding("Python", "ok" if python else "FAIL", f"{version} in {sys.prefix}, needed: {wanted}", fix)
    for each in requirements:
        try:
            found = metadata.version(each.name)
            verdict = "ok" if each.specifier.contains(found, prereleases=True) else "FAIL"
        except metadata.PackageNotFoundError:
            found, verdict = "not installed", "FAIL"
        yield Finding(each.name, verdict, f"{found}, needed: {each.specifier}", INSTALL if verdict == "FAIL" else "")


def check_helpers(settings: Settings) -> str:
    """Students edit one copy of helpers/ and may import another: look at what a notebook's kernel would import."""
    folder = project_folder()
    notebooks = list((folder / "notebooks").glob("[!.]*.ipynb"))
    if not notebooks:
        raise CourseError(f"There are no notebooks in {folder / 'notebooks'}.")
    command = [sys.executable, "-c", "import json, helpers; print(json.dumps(helpers.__path__[0]))"]
    done = subprocess.run(command, cwd=folder / "notebooks", capture_output=True, text=True, timeout=60)
    imported = Path(json.loads(done.stdout.strip() or '"nowhere"'))
    if imported.resolve() != (folder / "helpers").resolve():
        raise CourseError(f"Notebooks import it from {imported}, not from this folder, {folder}.")
    return f"{len(notebooks)} notebooks import it from {imported}"


def check_settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", "ok", str(settings))
    known = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    if strange := sorted(name for name in os.environ if name.startswith("COURSE_") and name not in VARIABLES):
        fix = f"The course knows {', '.join(VARIABLES)}."
        yield Finding("variables", "warn", f"nothing reads {', '.join(strange)}", fix)
    else:
        yield Finding("variables", "ok", ", ".join(known) or "no COURSE_… variable is set")


def check_checkpoint(settings: Settings) -> str:
    from helpers.models import count_parameters, load_classifier, load_tokenizer

    load_tokenizer(Settings().model)
    return f"{count_parameters(load_classifier(Settings().model)):,} parameters"


def check_reviews(settings: Settings) -> str:
    from helpers.data import load_reviews

    return ", ".join(f"{len(rows):,} {split}" for split, rows in load_reviews(Settings()).items())


def check_device(settings: Settings) -> str:
    import torch

    from helpers.prepare import choose_precision

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name = torch.cuda.get_device_name(0) if device == "cuda" else "the quick profile needs no more"
    return f"{device}, {name}; precision auto (bf16 where it is quick) is {choose_precision('auto')} here"


def check_machine(settings: Settings) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    verdict, fix = ("ok", "") if usable > 1 else ("warn", "None is needed: the 40 runs take about twice as long.")
    yield Finding("cores", verdict, f"{usable} of {os.cpu_count()} usable", fix)
    free = psutil.virtual_memory().available / 2**30
    fix = "Close other programs, or train with `python -m helpers assignment --workers 1`." if free < 3 else ""
    found = f"{free:.1f} GiB free; each training process takes about 1"
    yield Finding("memory", "warn" if fix else "ok", found, fix)


def check_build_folder(settings: Settings) -> Iterator[Finding]:
    build = find_build_folder()
    there = next(folder for folder in (build, *build.parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise CourseError(f"Cannot write in {there}: {error.strerror}.") from error
    yield Finding("build folder", "ok", f"{build}, may be written")
    free, needed = shutil.disk_usage(there).free / 2**30, 0.5 if settings.profile == "quick" else 3
    fix = f"Make room, or: {BUILD}" if free < needed else ""
    yield Finding("disk", "FAIL" if fix else "ok", f"{free:.1f} GiB free, needed: {needed}", fix)


def check_runs(settings: Settings) -> Iterator[Finding]:
    from helpers.results import list_policies, load_results

    records, damaged = list((settings.folder / "runs").glob("*/record.json")), []
    for path in records:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            damaged.append(path.parent.name)
    if damaged:
        fix = f"None is needed: they are trained again. They are in {settings.folder / 'runs'}."
        yield Finding("runs", "warn", f"{len(damaged)} records cannot be read, {damaged[0]} among them", fix)
    else:
        yield Finding("runs", "ok", f"{len(records)} finished in this profile")
    if (path := settings.folder / "results.json").exists():
        yield Finding("results", "ok", f"policies: {', '.join(list_policies(load_results(path))) or 'none'}")


def check_kernels(settings: Settings) -> Iterator[Finding]:
    """A notebook names the kernel that it was saved with, which may be one of another machine."""
    command = [sys.executable, "-m", "jupyter_client.kernelspecapp", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    specs = json.loads(done.stdout)["kernelspecs"]
    users: dict[str, list[str]] = {"python3": ["every new notebook"]}
    for path in sorted((project_folder() / "notebooks").glob("[!.]*.ipynb")):
        try:
            name = json.loads(path.read_text(encoding="utf-8-sig"))["metadata"]["kernelspec"]["name"]
            users.setdefault(name, []).append(path.name)
        except (ValueError, KeyError, TypeError, OSError):
            fix = "Open it and choose the kernel Python 3, or restore the file."
            yield Finding(path.name, "FAIL", "it cannot be read, or names no kernel", fix)
    for name, files in users.items():
        if name not in specs:
            # A name such as conda-env-x-py is made up by a Jupyter elsewhere: no installation here would bring it.
            found = f"not on this machine; {', '.join(files)} asks for it"
            fix = "Open the notebook, choose the kernel Python 3 (Kernel > Change Kernel), and save it."
            fix = "python -m ipykernel install --sys-prefix" if name == "python3" else fix
            yield Finding(f"kernel {name}", "FAIL", found, fix)
            continue
        program = Path(specs[name]["spec"]["argv"][0])
        own = program.name == str(program) or program.parent.resolve() == Path(sys.executable).parent.resolve()
        fix = "" if own else f"python -m ipykernel install --sys-prefix --name {name}"
        yield Finding(f"kernel {name}", "ok" if own else "FAIL", f"runs {'this Python' if own else program}", fix)


def check_jupyter(settings: Settings) -> Iterator[Finding]:
    """Whether there is a program to open notebooks in; Colab and editors are some, too."""
    found = [name for name in ("jupyterlab", "notebook") if find_spec(name)]
    if found or "COLAB_RELEASE_TAG" in os.environ:
        yield Finding("Jupyter", "ok", ", ".join(found) or "Colab")
    else:
        fix = "python -m pip install -c constraints.txt -e '.[lab]'"
        yield Finding("Jupyter", "warn", "neither JupyterLab nor Notebook; an editor with notebooks will do", fix)


def check_processes(settings: Settings) -> str:
    """The search trains in processes that are started afresh."""
    started = time.monotonic()
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,), daemon=True)
    process.start()
    process.join(30)
    if process.exitcode != 0:
        process.kill()
        raise CourseError(f"A new process ended with exit code {process.exitcode}.")
    return f"a new one starts in {time.monotonic() - started:.1f} s"


def check_hub(settings: Settings) -> Iterator[Finding]:
    """Is the hub to be reached, and are the real model and data in its cache, at the pinned revisions?"""
    trouble = call_hub()
    fix = "None for the quick profile, which needs no network. For the full one, fill the cache where there is one."
    yield Finding("network", "warn" if trouble else "ok", trouble or "the hub answers", fix if trouble else "")
    full = settings.profile == "full"
    wanted = settings if full else load_settings("full")
    for kind, name in (("model", wanted.model), ("dataset", wanted.data)):
        if not is_hub_id(name):
            verdict = "ok" if Path(name).exists() else "FAIL"
            yield Finding(f"hub {kind}", verdict, f"not needed: {name} is given instead")
        elif find_cached(name, kind):
            yield Finding(f"hub {kind}", "ok", f"{name} is in the cache")
        else:
            verdict = "ok" if not full else "FAIL" if trouble else "warn"
            found = f"{name} is not in the cache; only the full profile needs it"
            yield Finding(f"hub {kind}", verdict, found, "python -m helpers prefetch, where there is a network")


def check_sandbox(settings: Settings) -> str:
    """Only for those who grade: students have no folder instructor/."""
    return shutil.which("bwrap") or "bwrap (bubblewrap) is not here; grading then runs with less isolation"


OFFLINE = "Restore the folder helpers/offline, or install the course again."
CHECKS: dict[str, tuple[Callable[[Settings], str | Iterator[Finding]], str]] = {
    "versions": (check_versions, INSTALL),
    "helpers": (check_helpers, f"Run this in the assignment's folder, and there: {INSTALL}"),
    "settings": (check_settings, ""),
    "offline checkpoint": (check_checkpoint, OFFLINE),
    "offline reviews": (check_reviews, OFFLINE),
    "device": (check_device, INSTALL),
    "machine": (check_machine, ""),
    "build folder": (check_build_folder, BUILD),
    "runs": (check_runs, ""),
    "kernels": (check_kernels, INSTALL),
    "Jupyter": (check_jupyter, ""),
    "processes": (check_processes, "Run this from a terminal; in a container, allow processes and shared memory."),
    "hub": (check_hub, ""),
}
if (Path(__file__).parents[1] / "instructor").is_dir():
    CHECKS["sandbox"] = (check_sandbox, "")
