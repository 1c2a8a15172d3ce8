"""What a machine needs for the assignment: look at each thing, say what was found, and how to mend what is wrong."""

import json
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from helpers.settings import (
    REVISIONS,
    CourseError,
    Settings,
    find_build_folder,
    is_hub_id,
    load_settings,
    project_folder,
)

DISTRIBUTION = "bitfit-assignment"
INSTALL = "python -m pip install -c constraints.txt -e ."
VARIABLES = tuple(
    f"COURSE_{name}" for name in ("PROFILE", "MODEL", "DATA", "BUILD", "PRECISION", "STORAGE", "PROGRESS")
)


@dataclass(frozen=True)
class Finding:
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
    for check in CHECKS:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            findings += check(settings)
        except CourseError as error:
            findings.append(Finding(name, "FAIL", str(error)))
        except Exception as error:  # A broken machine breaks libraries in ways that nobody can list.
            said = next(iter(str(error).splitlines()), "")
            findings.append(Finding(name, "FAIL", f"{type(error).__name__}: {said}", INSTALL))
    return findings


def report(findings: list[Finding]) -> str:
    """One line a check, and one that says how many need attention."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        fix = f"  Fix: {finding.fix}" if finding.fix else ""
        lines.append(f"{finding.verdict:4}  {finding.what:{width}}  {finding.found}{fix}")
    verdicts = [finding.verdict for finding in findings]
    failed, warned = verdicts.count("FAIL"), verdicts.count("warn")
    summary = f"{len(findings)} checks: {failed} FAIL, {warned} warn."
    return "\n".join(
        [*lines, "", f"{summary} Mend the first FAIL first; others may follow from it." if failed else summary]
    )


def check_python(settings: Settings) -> Iterator[Finding]:
    wanted, _ = read_requirements()
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if in_range(sys.version.split()[0], wanted):
        yield Finding("Python", "ok", found)
    else:
        yield Finding(
            "Python", "FAIL", f"{found}, needed: {wanted}", "Install it, and make the environment anew with it."
        )


def check_packages(settings: Settings) -> Iterator[Finding]:
    for name, wanted in read_requirements()[1].items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "FAIL", f"not installed, needed: {wanted}", INSTALL)
            continue
        if in_range(version, wanted):
            yield Finding(name, "ok", version)
        else:
            yield Finding(name, "FAIL", f"{version}, needed: {wanted}", INSTALL)


def read_requirements() -> tuple[str, dict[str, str]]:
    """The ranges of Python and of the packages, from the installed course, else from pyproject.toml."""
    try:
        found = metadata.distribution(DISTRIBUTION)
        python, lines = found.metadata["Requires-Python"], found.requires or []
    except metadata.PackageNotFoundError:
        text = (project_folder() / "pyproject.toml").read_text(encoding="utf-8")
        python = re.search(r'^requires-python = "(.*)"', text, re.M)[1]
        lines = re.findall(r'"([^"]+)"', re.search(r"(?s)^dependencies = \[\n(.*?)^\]", text, re.M)[1])
    matches = [re.fullmatch(r"([\w.-]+)\s*(.*)", line) for line in lines if "extra ==" not in line]
    return python, {match[1]: match[2] for match in matches}


def in_range(version: str, wanted: str) -> bool:
    """Whether a version such as 2.13.0+cpu lies in a range such as `>=2.11,<3`; other operators are not needed here."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split(".")]

    for kind, bound in re.findall(r"(>=|<)\s*([\d.]+)", wanted):
        if (numbers(version) >= numbers(bound)) is not (kind == ">="):
            return False
    return True


def check_course_files(settings: Settings) -> Iterator[Finding]:
    """Students edit one copy of helpers/ and may import another: look at what a notebook's kernel would import."""
    folder = project_folder()
    notebooks = folder / "notebooks"
    if not any(notebooks.glob("*.ipynb")):
        yield Finding("notebooks", "warn", f"none in {notebooks}", "Run this in the assignment's folder.")
        return
    yield Finding("notebooks", "ok", f"{len(list(notebooks.glob('*.ipynb')))} in {notebooks}")
    command = [sys.executable, "-c", "import helpers; print(helpers.__path__[0])"]
    done = subprocess.run(command, cwd=notebooks, capture_output=True, text=True, timeout=60)
    imported = Path(done.stdout.strip() or "nowhere")
    if done.returncode:
        yield Finding("helpers", "FAIL", "notebooks cannot import it", INSTALL)
    elif imported.resolve() != (folder / "helpers").resolve():
        fix = f"In {folder}: {INSTALL}"
        yield Finding("helpers", "FAIL", f"notebooks import it from {imported}, not from this folder", fix)
    else:
        yield Finding("helpers", "ok", f"notebooks import it from {imported}")


def check_settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", "ok", str(settings))
    hidden = {name: re.sub("//[^/]*@", "//***@", os.environ[name]) for name in VARIABLES if name in os.environ}
    known = [f"{name}={value}" for name, value in hidden.items()]
    strange = sorted(name for name in os.environ if name.startswith("COURSE_") and name not in VARIABLES)
    if strange:
        names = ", ".join(strange)
        yield Finding("variables", "warn", f"nothing reads {names}", f"The course knows {', '.join(VARIABLES)}.")
    else:
        yield Finding("variables", "ok", ", ".join(known) or "no COURSE_… variable is set")


def check_offline_files(settings: Settings) -> Iterator[Finding]:
    from helpers.data import load_reviews
    from helpers.models import count_parameters, load_classifier, load_tokenizer

    offline = Settings()
    fix = "Restore the folder helpers/offline, or install the course again."
    try:
        numbers = count_parameters(load_classifier(offline.model))
        load_tokenizer(offline.model)
        yield Finding("offline checkpoint", "ok", f"{numbers:,} parameters")
    except CourseError as error:
        yield Finding("offline checkpoint", "FAIL", str(error), fix)
    try:
        reviews = load_reviews(offline)
        counts = ", ".join(f"{len(rows):,} {split}" for split, rows in reviews.items())
        yield Finding("offline reviews", "ok", counts)
    except CourseError as error:
        yield Finding("offline reviews", "FAIL", str(error), fix)


def check_device(settings: Settings) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding("device", "ok", f"cuda, {torch.cuda.get_device_name(0)}")
    elif torch.backends.mps.is_available():
        yield Finding("device", "ok", "mps")
    else:
        yield Finding("device", "ok", "cpu; the quick profile needs no more")


def check_cores(settings: Settings) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{usable} of {os.cpu_count()} usable"
    if usable > 1:
        yield Finding("cores", "ok", found)
    else:
        yield Finding(
            "cores", "warn", f"{found}: the 40 runs take about twice as long", "None is needed: give it time."
        )


def check_bf16(settings: Settings) -> Iterator[Finding]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=kind, device=device)
        times = []
        for _ in range(4):
            started = time.perf_counter()
            (matrix @ matrix)[0, 0].item()
            times.append(time.perf_counter() - started)
        seconds[kind] = min(times)
    fp32, bf16 = (1000 * seconds[kind] for kind in (torch.float32, torch.bfloat16))
    found = f"bf16 products are {fp32 / bf16:.2g} x as fast as fp32 ({bf16:.2f} against {fp32:.2f} ms)"
    yield Finding("bf16", "ok", found)


def check_memory(settings: Settings) -> Iterator[Finding]:
    try:
        free = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    except (OSError, TypeError):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        except (AttributeError, ValueError, OSError):
            yield Finding("memory", "ok", "this system does not say how much is free")
            return
    if free >= 3:
        yield Finding("memory", "ok", f"{free:.1f} GiB free")
    else:
        fix = "Close other programs, or train with `python -m helpers assignment --workers 1`."
        yield Finding("memory", "warn", f"{free:.1f} GiB free; each training process takes about 1", fix)


def check_build_folder(settings: Settings) -> Iterator[Finding]:
    build = find_build_folder()
    there = next(folder for folder in (build, *build.parents) if folder.exists())
    fix = "Set COURSE_BUILD to a folder in which you may write."
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        yield Finding("build folder", "FAIL", f"cannot write in {there}: {error.strerror}", fix)
        return
    yield Finding("build folder", "ok", f"{build}, may be written")
    free = shutil.disk_usage(there).free / 2**30
    needed = 0.5 if settings.profile == "quick" else 3
    if free >= needed:
        yield Finding("disk", "ok", f"{free:.1f} GiB free")
    else:
        yield Finding("disk", "FAIL", f"{free:.2f} GiB free, needed: {needed}", f"Make room, or: {fix}")


def check_study(settings: Settings) -> Iterator[Finding]:
    from helpers.results import load_results

    study, results = settings.folder / "study.db", settings.folder / "results.json"
    if not study.exists():
        yield Finding("study", "ok", "none yet: nothing has been trained in this profile")
    else:
        try:
            with sqlite3.connect(f"{study.as_uri()}?mode=ro", uri=True) as database:
                (finished,) = database.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()
            yield Finding("study", "ok", f"{finished} finished cells")
        except sqlite3.Error as error:
            fix = f"Move {study} aside; its cells are then trained anew."
            yield Finding("study", "FAIL", f"{study} cannot be read: {error}", fix)
    if results.exists():
        try:
            policies = ", ".join(load_results(results)["policies"])
            yield Finding("results", "ok", f"whole grids: {policies or 'none'}")
        except CourseError as error:
            yield Finding("results", "FAIL", str(error))


def check_hub(settings: Settings) -> Iterator[Finding]:
    """Is the hub to be reached, and are the real model and data in its cache, at the pinned revisions?"""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    said = "" if offline else call_hub(constants.ENDPOINT)
    if offline:
        yield Finding("network", "ok", "not tried, since HF_HUB_OFFLINE is set")
    elif said:
        fix = "None for the quick profile, which needs no network. For the full one, fill the cache where there is one."
        yield Finding("network", "warn", f"{constants.ENDPOINT} does not answer ({said})", fix)
    else:
        yield Finding("network", "ok", f"{constants.ENDPOINT} answers")
    full = settings.profile == "full"
    wanted = settings if full else load_settings("full")
    for kind, name in (("model", wanted.model), ("dataset", wanted.data)):
        if not is_hub_id(name):
            yield Finding(
                f"hub {kind}", "ok" if Path(name).is_dir() else "FAIL", f"not needed: {name} is given instead"
            )
        elif is_cached(name, kind):
            yield Finding(f"hub {kind}", "ok", f"{name} is in the cache")
        else:
            verdict = "ok" if not full else "FAIL" if offline or said else "warn"
            found = f"{name} is not in the cache; only the full profile needs it"
            yield Finding(f"hub {kind}", verdict, found, "python -m helpers prefetch, where there is a network")


def is_cached(name: str, kind: str) -> bool:
    """Whether the files that the course reads are in the hub's cache, at the revision that it reads."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=REVISIONS.get(name), local_files_only=True))
    except (OSError, ValueError):  # huggingface_hub's own errors are of these kinds.
        return False
    files = [path.name for path in folder.rglob("*") if path.exists()]
    patterns = [r"config\.json", r"vocab\.txt|tokenizer\.json", r"model\.safetensors|pytorch_model\.bin"]
    if kind == "dataset":
        patterns = [rf"{split}.*\.(parquet|csv|jsonl)" for split in ("train", "test")]
    return all(any(re.fullmatch(pattern, file) for file in files) for pattern in patterns)


def call_hub(address: str) -> str:
    """Ask for the address within 4 seconds; returns why there was no answer, or nothing."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    heard: list[str] = []

    def call() -> None:
        try:
            urlopen(Request(address, method="HEAD"), timeout=3).close()
            heard.append("")
        except HTTPError:
            heard.append("")  # An answer is an answer.
        except (OSError, ValueError) as error:
            heard.append(str(getattr(error, "reason", error)))

    caller = threading.Thread(target=call, daemon=True)  # Looking up a name heeds no timeout.
    caller.start()
    caller.join(4)
    return heard[0] if heard else "nothing heard for 4 s"


def check_kernel(settings: Settings) -> Iterator[Finding]:
    fix = "python -m ipykernel install --sys-prefix --name python3"
    command = [sys.executable, "-m", "jupyter_client.kernelspecapp", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        yield Finding("kernel", "FAIL", "Jupyter cannot list its kernels", INSTALL)
        return
    specs = json.loads(done.stdout)["kernelspecs"]
    names = {"python3"}
    for path in sorted((project_folder() / "notebooks").glob("*.ipynb")):
        try:
            names.add(json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"])
        except (ValueError, KeyError, TypeError, OSError):
            fix_file = "Restore the file, or open it and choose a kernel."
            yield Finding(path.name, "FAIL", "it cannot be read, or names no kernel", fix_file)
    for name in sorted(names):
        if name not in specs:
            there = ", ".join(specs) or "none"
            yield Finding(f"kernel {name}", "FAIL", f"notebooks ask for it; there is {there}", fix)
            continue
        program = specs[name]["spec"]["argv"][0]
        own = program in ("python", "python3") or Path(program).resolve() == Path(sys.executable).resolve()
        found = f"runs {'this Python' if own else program}"
        yield Finding(f"kernel {name}", "ok" if own else "FAIL", found, "" if own else fix)


def check_jupyter(settings: Settings) -> Iterator[Finding]:
    if "COLAB_RELEASE_TAG" in os.environ:
        yield Finding("Jupyter", "ok", "Colab")
        return
    for name in ("jupyterlab", "notebook"):
        try:
            yield Finding("Jupyter", "ok", f"{name} {metadata.version(name)}")
            return
        except metadata.PackageNotFoundError:
            continue
    fix = "python -m pip install -c constraints.txt -e '.[lab]'"
    yield Finding("Jupyter", "warn", "neither JupyterLab nor Notebook here; an editor with notebooks will do", fix)


def check_processes(settings: Settings) -> Iterator[Finding]:
    """The search trains in processes that are started afresh."""
    started = time.monotonic()
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,), daemon=True)
    process.start()
    process.join(30)
    if process.exitcode == 0:
        yield Finding("processes", "ok", f"a new one starts in {time.monotonic() - started:.1f} s")
    else:
        process.kill()
        fix = "Run this from a terminal; in a container, allow processes and shared memory."
        yield Finding("processes", "FAIL", f"a new one ended with exit code {process.exitcode}", fix)


CHECKS: list[Callable[[Settings], Iterator[Finding]]] = [
    *(check_python, check_packages, check_course_files, check_settings, check_offline_files),
    *(check_device, check_cores, check_bf16, check_memory, check_build_folder, check_study),
    *(check_kernel, check_jupyter, check_processes, check_hub),
]
