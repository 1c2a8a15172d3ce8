import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from nbval.plugin import get_sanitize_patterns
from nox.project import load_toml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_layout import list_imports

CONDA_NAMES = {
    "jupyter-client": "jupyter_client",
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "huggingface-hub": "huggingface_hub",
}
TARGETS = {
    "assignment": "-m helpers assignment",
    "test": "-m pytest --nbval notebooks/0",
    "lint": "-m ruff check",
    "notebooks": "nbconvert --to notebook --execute --inplace",
    "answers": "-m helpers answers",
    "matrix": "-m nox",
    "browser": "tests/test_browser.py",
    "clean": "rm -rf build",
    "help": "awk",
}
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture(scope="module")
def project() -> dict:
    return load_toml(ROOT / "pyproject.toml")["project"]


def parse(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    by_name = {canonicalize_name(requirement.name): requirement for requirement in found}
    assert len(by_name) == len(found), "a package is named twice"
    return by_name


def declared(project: dict, *extras: str) -> dict[str, Requirement]:
    return parse(project["dependencies"] + [line for e in extras for line in project["optional-dependencies"][e]])


@pytest.fixture(scope="module")
def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return parse([line for line in lines if line and not line.startswith("#")])


def test_every_dependency_has_a_lower_bound_and_one_pin_inside_its_range(project, pins):
    wanted = declared(project, *project["optional-dependencies"])
    assert pins.keys() == {*wanted, "jsonschema"}
    for pin in pins.values():
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "+" not in specifier.version, str(pin)
    for name in wanted:
        (specifier,) = pins[name].specifier
        assert wanted[name].specifier.contains(specifier.version), f"{pins[name]} is outside {wanted[name]}"
        assert ">=" in {each.operator for each in wanted[name].specifier}, str(wanted[name])


def test_environment_has_the_ranges_of_pyproject(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *lines, pip_section = environment["dependencies"]
    assert pip_section == {"pip": ["-e ."]}
    found = dict(re.fullmatch(r"(\S+) ?(.*)", line).groups() for line in lines)
    assert len(found) == len(lines)
    assert found.pop("pip") == ""
    assert Requirement(f"python{found.pop('python')}").specifier.contains("3.11")
    wanted = declared(project, "lab", "cluster", "test", "nbgrader")
    assert {name: Requirement(f"x{spec}").specifier for name, spec in found.items()} == {
        CONDA_NAMES.get(name, name): requirement.specifier for name, requirement in wanted.items()
    }


def imported_packages(folder: Path) -> set[str]:
    names = {name.partition(".")[0] for path in folder.rglob("*.py") for name in list_imports(path)}
    beside = {path.stem for path in folder.glob("*.py")} if folder.name != "helpers" else set()
    return names - beside - {"helpers", "instructor"} - set(sys.stdlib_module_names)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not know the imports of every distribution")
@pytest.mark.parametrize(
    ("folder", "extras", "allowed"),
    [
        ("helpers", ["cluster"], set()),
        ("instructor", ["test"], set()),
        ("tests", ["test", "cluster"], set()),
        ("scripts", ["test"], set()),
        ("benchmarks", [], {"test_colab"}),
    ],
)
def test_every_import_is_declared(project, folder, extras, allowed):
    distributions = importlib.metadata.packages_distributions()
    known = declared(project, *extras).keys()
    undeclared = {
        name
        for name in imported_packages(ROOT / folder) - allowed
        if not known & {canonicalize_name(found) for found in distributions.get(name, [name])}
    }
    assert not undeclared, f"{folder}/ imports what pyproject.toml does not name"


def test_wheel_has_all_of_helpers_and_nothing_else(tmp_path):
    """Built from a copy: in the working tree, old files under build/lib would get into the wheel."""
    source, ignored = tmp_path / "source", shutil.ignore_patterns("__pycache__", "*.part")
    for name in ("helpers", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*command, "--wheel-dir", tmp_path, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    # pip leaves a folder build/ in the source, so the files are those of the original.
    files = [path for path in (ROOT / "helpers").rglob("*") if path.is_file()]
    wanted = {f.relative_to(ROOT).as_posix() for f in files if "__pycache__" not in f.parts and f.suffix != ".part"}
    assert found == wanted
    assert {f"helpers/offline/{name}" for name in ("checkpoint/model.safetensors", "reviews/train.csv")} < found


def project_files() -> list[Path]:
    """What git tracks or would track."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is not a git repository")
    names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


FORBIDDEN = {
    "registry host": re.compile(
        r"py[p]i\.(?:org|python)|python[h]osted\.|download\.py[t]orch|[a]naconda\.(?:org|com)|registry\.np[m]js"
    ),
    # Where a student's Drive is on Colab is Colab's choice, and no machine's of ours.
    "absolute path": re.compile(
        r"(?<![\w.~}>-])/(?:root|home|Users|work|tmp|mnt|opt|content(?!/drive\b))/[\w.-]|\b[A-Z]:\\{1,2}Users\b"
    ),
}


def forbidden_in(text: str) -> list[str]:
    text = text.replace("\\n", "\n")  # in a notebook's JSON, a line's end stands before what begins the next line
    return [f"{what}: {match.group()}" for what, pattern in FORBIDDEN.items() for match in pattern.finditer(text)]


def test_no_file_names_a_registry_host_or_a_path_of_a_machine():
    found = {}
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if hits := forbidden_in(text):
            found[path.relative_to(ROOT).as_posix()] = hits
    assert not found


def test_the_search_for_hosts_and_paths_finds_them():
    for text in ("/" + "root/x", '"saved\\n/' + 'home/ann"', "https://py" + "pi.org", "C:\\" + "Users\\ann"):
        assert forbidden_in(text)
    for text in ("https://example.org/home/page", "../tmp/x, ~/home/x", "/usr/bin/env", "/" + "content/drive/MyDrive"):
        assert not forbidden_in(text)


def run_make(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment | variables)


@needs_make
def test_makefile_has_the_documented_targets_and_lists_them():
    listed = run_make().stdout
    for target, part in TARGETS.items():
        done = run_make("--dry-run", target)
        assert done.returncode == 0, done.stderr
        assert part in done.stdout and f"make {target}" in listed


def write_fake_python(path: Path, version_check: int = 0, venv_check: int = 0, pip: str = "exit 1") -> Path:
    """Write a stand-in for python3 with a pip of which `pip install` does what is said here."""
    path.write_text(
        f"""#!/bin/sh
case "$*" in
  *version_info*) exit {version_check} ;;
  *ensurepip*) exit {venv_check} ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip config get global.find-links") echo a-folder-of-wheels ;;
  "-m pip install"*) echo "pip $*, user $PIP_USER$PIP_TARGET$PIP_PREFIX" >> "$LOG"; {pip} ;;
  *) exit 1 ;;
esac
"""
    )
    path.chmod(0o755)
    return path


def write_fake_uv(folder: Path, code: int) -> Path:
    folder.mkdir()
    (folder / "uv").write_text(f'#!/bin/sh\necho "uv $*, links $UV_FIND_LINKS" >> "$LOG"; exit {code}\n')
    (folder / "uv").chmod(0o755)
    return folder


@needs_make
@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ({"version_check": 1}, "Python 3.10 or newer is needed"),
        ({"venv_check": 1}, "install python3-venv"),
        ({"pip": "echo no network >&2; exit 1"}, "no network"),
    ],
)
def test_a_set_up_that_fails_says_why_and_leaves_no_stamp(tmp_path, fails, message):
    python = write_fake_python(tmp_path / "python", **fails)
    path = f"{write_fake_uv(tmp_path / 'bin', 1)}{os.pathsep}{os.environ['PATH']}"
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".installed-base").write_text("another folder\n")
    (venv / ".installed-test").touch()
    done = run_make("answers", f"PYTHON={python}", f"VENV={venv}", PATH=path, LOG=str(tmp_path / "log"))
    assert done.returncode != 0
    assert message in done.stderr
    assert not list(venv.glob(".installed-*"))


@needs_make
@pytest.mark.parametrize("code", [0, 1])
def test_uv_installs_and_where_it_fails_pip_does(tmp_path, code):
    """uv is told where pip would look, and pip that this is no place for PIP_USER and the like."""
    python = write_fake_python(tmp_path / "python", pip="exit 0")
    path = f"{write_fake_uv(tmp_path / 'bin', code)}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "LOG": str(tmp_path / "log"), "PIP_USER": "1", "PIP_FIND_LINKS": "", "UV_FIND_LINKS": ""}
    variables |= {"PIP_TARGET": "elsewhere", "PIP_PREFIX": "elsewhere"}
    venv = tmp_path / "venv"
    done = run_make(f"{venv}/.installed-base", f"PYTHON={python}", f"VENV={venv}", **variables)
    assert done.returncode == 0, done.stderr
    uv, *pip = (tmp_path / "log").read_text().splitlines()
    assert uv.endswith("-c constraints.txt -e ., links a-folder-of-wheels")
    assert len(pip) == code and all(line.endswith("-c constraints.txt -e ., user 0") for line in pip)
    assert (venv / ".installed-base").read_text() == f"{ROOT}\n"
    assert len(done.stdout.splitlines()) <= 4, done.stdout


@needs_make
def test_a_finished_set_up_is_not_done_again_until_the_folder_moves(tmp_path):
    stamp = tmp_path / ".installed-base"
    stamp.write_text(f"{ROOT}\n")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to(sys.executable)
    assert "constraints.txt" not in run_make("--dry-run", "answers", f"VENV={tmp_path}").stdout
    python.unlink()
    python.symlink_to("gone")
    assert "constraints.txt" in run_make("--dry-run", "answers", f"VENV={tmp_path}").stdout
    stamp.write_text("another folder\n")
    assert "constraints.txt" in run_make("--dry-run", "answers", f"VENV={tmp_path}").stdout


def test_matplotlib_says_nothing_where_the_home_folder_cannot_be_written():
    kept = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")}
    code = "import helpers, matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig(__import__('io').BytesIO())"
    done = subprocess.run([sys.executable, "-c", code], env=kept | {"HOME": os.devnull}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_a_sign_that_the_terminal_cannot_show_ends_nothing(tmp_path):
    """The settings are shown with a `·` between them; then there are no results."""
    environment = os.environ | {"PYTHONIOENCODING": "cp932", "COURSE_BUILD": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "helpers", "answers"], cwd=ROOT, env=environment, capture_output=True)
    assert done.stdout.startswith(b"profile quick ") and done.returncode == 2, done.stderr


def sanitize(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns((ROOT / "tests/nbval_sanitize.cfg").read_text(encoding="utf-8")):
        text = re.sub(pattern, replacement, text)
    return text


def test_sanitize_hides_what_differs_between_runs_and_keeps_results():
    for first, second in (
        ('<td id="T_1a2b3_row0_col1">', '<td id="T_99fe0_row0_col1">'),
        (
            "<Trainer at 0x7f12ab>, finished 2026-11-23T12:00:00Z",
            "<Trainer at 0x55aa01>, finished 2027-01-02T03:04:05Z",
        ),
        ("torch 2.13.0+cpu, pandas 3.1.1; 212.4 s", "torch 2.11.0+cu128, pandas 2.2.3; 98 s"),
    ):
        assert sanitize(first) == sanitize(second)
    for text in ("0.8898", "4,386,178 parameters", "0.0701 %", "learning rate 3e-4, batch size 8", "[101 7592 102 0]"):
        assert sanitize(text) == text
