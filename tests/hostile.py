# ruff: noqa: E501  (the code of a submission is a string, on as few lines as can be read)
"""Submissions that nobody should trust, with the points they deserve; `build` writes one as a folder or a zip."""

import json
import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOLUTION = (ROOT / "helpers" / "exercises.py").read_text(encoding="utf-8")
ALL = {"1d": 10, "2a": 10, "2b": 20, "2c": 20}
NONE = dict.fromkeys(ALL, 0)
NAMES = ("preprocess_dataset", "init_model", "init_trainer", "init_tester", "hyperparameter_search_settings")
STUBS = "".join(f"def {name}(*arguments, **options):\n    raise NotImplementedError\n\n\n" for name in NAMES)
NOTEBOOK = "notebooks/01_bert_inputs.ipynb"
SLEEP = f"9173{os.getpid()}"  # Tells the sleeping processes of one run of the tests from another's.


def without(*problems: str) -> dict[str, int]:
    return ALL | dict.fromkeys(problems, 0)


def before(function: str, code: str) -> str:
    """The solution, but one function does something first."""
    lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return f"{SOLUTION}\n\n_right = {function}\n\n\ndef {function}(*a, **k):\n{lines}\n    return _right(*a, **k)\n"


def at_import(code: str, rest: str = SOLUTION) -> str:
    return f"{code.strip()}\n\n{rest}"


def tolerantly(code: str) -> str:
    lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return f"try:\n{lines}\nexcept BaseException:\n    pass"


# Mistakes that a student may make: appended to the solution, each makes one function wrong.
MISTAKES = {
    "1d": """
def preprocess_dataset(dataset, tokenizer):
    return dataset.map(lambda rows: tokenizer(rows["text"], padding=True, truncation=True), batched=True)
""",
    "2a": """
def init_model(trial, model_name, use_bitfit=False):
    model = load_classifier(model_name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not use_bitfit or "bias" in name
    return model
""",
    "2b": """
_right_trainer = init_trainer
def init_trainer(*arguments, **options):
    trainer = _right_trainer(*arguments, **options)
    trainer.args.num_train_epochs = 3
    return trainer
""",
    "2c": """
_right_search = hyperparameter_search_settings
def hyperparameter_search_settings():
    return {name: value for name, value in _right_search().items() if name != "pruner"}
""",
}
FORGED = '"imported"\\n{"records": [{"kind": "Dataset"}], "stopped": null}'

# name: (the whole of exercises.py, points, part of what the sheet says)
CODE: dict[str, tuple[str, dict[str, int], str]] = {
    "fork bomb": (
        before("preprocess_dataset", "import os\nwhile True:\n    os.fork()"),
        without("1d"),
        "Problem 1d: ",
    ),
    "fork bomb that hides its children": (
        before(
            "preprocess_dataset",
            "import os\nwhile True:\n    if os.fork() == 0:\n        os.setsid()\n        os.fork()",
        ),
        without("1d"),
        "Problem 1d: ",
    ),
    "infinite loop": (before("init_model", "while True: pass"), without("2a"), "it took more than 8 s of CPU"),
    "sleeps for ever": (before("init_tester", "import time\ntime.sleep(1e6)"), without("2b"), "did not come to an end"),
    "stops itself": (
        before("init_model", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
        without("2a"),
        "did not come to an end",
    ),
    "10 GB at once": (
        before("preprocess_dataset", "data = bytearray(10 * 2**30)"),
        without("1d"),
        "Problem 1d: ",
    ),
    "memory piece by piece": (
        before("init_model", "kept = []\nwhile True:\n    kept.append(b'x' * 2**24)"),
        without("2a"),
        "MiB of memory",
    ),
    "memory in many processes": (
        before(
            "init_model",
            "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
            "        data = b'x' * (200 * 2**20)\n        time.sleep(100)\ntime.sleep(100)",
        ),
        without("2a"),
        "MiB of memory",
    ),
    "a gigabyte of output": (
        before("preprocess_dataset", "import os\nfor _ in range(1000):\n    os.write(1, b'x' * 2**20)"),
        ALL,
        "Problem 1d: correct",
    ),
    "output for ever": (
        before("hyperparameter_search_settings", "while True:\n    print('x' * 10**6)"),
        without("2c"),
        "Problem 2c: stopped",
    ),
    "fills the disk": (
        before("preprocess_dataset", "for part in range(10**6):\n    open(f'{part}', 'wb').write(b'x' * 2**24)"),
        without("1d"),
        "Problem 1d: ",
    ),
    "a million files": (
        before("preprocess_dataset", "for part in range(10**6):\n    open(f'{part}', 'wb').close()"),
        without("1d"),
        "Problem 1d: ",
    ),
    "one endless file": (
        before(
            "preprocess_dataset",
            "import os\nwith open('big', 'wb') as file:\n    while True:\n        file.write(b'x' * 2**24)",
        ),
        without("1d"),
        "Problem 1d: ",
    ),
    "all file descriptors": (
        before("preprocess_dataset", "files = []\nwhile True:\n    files.append(open('/dev/null'))"),
        without("1d"),
        "Problem 1d: ",
    ),
    "writes outside": (
        at_import(
            "import pathlib, sys\nfor folder in ('ROOT', 'MARKED', sys.prefix, '/usr', '/etc', '/'):\n"
            + "    try:\n        pathlib.Path(folder, 'written-by-hostile').write_text('x')\n"
            + "    except OSError:\n        pass"
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "reads the solution by its path": (
        at_import("exec(open('ROOT/helpers/exercises.py').read())", ""),
        NONE,
        "cannot be imported: FileNotFoundError",
    ),
    "reads the solution from git": (
        at_import(
            "import subprocess\nexec(subprocess.run(['git', '-C', 'ROOT', 'show', 'HEAD:helpers/exercises.py'],"
            " capture_output=True, check=True, text=True).stdout)",
            "",
        ),
        NONE,
        "cannot be imported",
    ),
    "asks the instructor's package": (
        at_import("from helpers.instructor import release, grade", STUBS),
        NONE,
        "cannot be imported: ModuleNotFoundError",
    ),
    "searches every file for a solution": (
        at_import(
            tolerantly(
                "import os\nown = open(__file__).read()\nfor folder, _, files in os.walk('/'):\n"
                "    for name in files:\n"
                "        if name.startswith('exercises') and name.endswith('.py'):\n"
                "            text = open(os.path.join(folder, name)).read()\n"
                "            if 'BEGIN SOLUTION' in text and text != own:\n"
                "                exec(text)"
            ),
            STUBS.replace("def ", "def stub_of_"),
        ),
        NONE,
        "has no function",
    ),
    "looks for what the grader expects": (
        at_import(
            tolerantly(
                "import gc\nfor thing in gc.get_objects():\n"
                "    if isinstance(thing, dict) and 'expected' in thing and 'given' in thing:\n"
                "        raise SystemExit(str(thing)[:200])"
            ),
            STUBS,
        ),
        NONE,
        "is not written yet",
    ),
    "forges what the probe sends": (
        at_import(
            "import os\nfor number in range(3, 64):\n    try:\n"
            f"        os.write(number, b'{FORGED}')\n    except OSError:\n        pass\nos._exit(0)",
            "",
        ),
        NONE,
        "Problem 1d: ",
    ),
    "sends a deep nest": (
        before("preprocess_dataset", "import os\nos.write(3, b'[' * 10**6)\nos._exit(0)"),
        without("1d"),
        "not what this problem's functions give",
    ),
    "sends numbers that are none": (
        before(
            "preprocess_dataset", 'import os\nos.write(3, b\'{"records": [NaN, 1e999], "stopped": null}\')\nos._exit(0)'
        ),
        without("1d"),
        "not what this problem's functions give",
    ),
    "sends far too much": (
        before("hyperparameter_search_settings", "return {f'{part}' * 1000: 0 for part in range(4000)}"),
        without("2c"),
        "it returned more than",
    ),
    "patches json": (
        at_import('import json\njson.dumps = lambda *a, **k: \'{"records": [], "stopped": null}\'', STUBS),
        NONE,
        "Problem 2a: ",
    ),
    "patches os.write": (at_import("import os\nos.write = lambda *a: 10**9", STUBS), NONE, "Problem 2a: "),
    "patches the checks": (
        at_import(
            "from helpers import checks, expect, observe\n"
            "checks.judge = checks.JUDGES['2a'] = lambda *a: 'correct'\nchecks._expect = lambda *a: None\n"
            "for name in ('1d', '2a', '2b', '2c'):\n    setattr(checks, f'problem_{name}', lambda *a, **k: print('correct'))\n"
            "    observe.OBSERVERS[name] = lambda *a: iter([{'kind': 'dict', 'correct': True}] * 20)",
            STUBS,
        ),
        NONE,
        "Problem 2a: ",
    ),
    "patches assertions": (
        at_import("import builtins\nbuiltins.AssertionError = builtins.Exception = KeyboardInterrupt", STUBS),
        NONE,
        "Problem 2a: ",
    ),
    "patches pytest and unittest": (
        at_import(
            "import sys, types\nfor name in ('pytest', 'nbval', 'unittest', 'helpers.checks'):\n"
            "    sys.modules[name] = types.ModuleType(name)",
            STUBS,
        ),
        NONE,
        "Problem 2a: ",
    ),
    "patches named_parameters": (
        at_import("import torch\ntorch.nn.Module.named_parameters = lambda *a, **k: iter(())"),
        without("2a", "2b"),
        "Problem 2a: ",
    ),
    "patches the Trainer's evaluation": (
        at_import("import transformers\ntransformers.Trainer.evaluate = lambda *a, **k: {'eval_accuracy': 1.0}"),
        without("2b", "2c"),
        "eval_accuracy of a model that always predicts 0",
    ),
    "replaces the observer's module": (
        at_import(
            "import sys\nclass Yes:\n    def __getattr__(self, name):\n        return lambda *a, **k: {'records': [], 'stopped': None}\n"
            "sys.modules['helpers.observe'] = sys.modules['helpers.expect'] = Yes()",
            STUBS,
        ),
        NONE,
        "Problem 2a: ",
    ),
    "memorised the public check": (
        SOLUTION
        + """
from helpers.checks import MODEL
from helpers.models import load_tokenizer
_own, _names = load_tokenizer(MODEL), {n for n, _ in load_classifier(MODEL).named_parameters() if n.endswith(".bias")}
def preprocess_dataset(dataset, tokenizer):
    return dataset.map(
        lambda rows: _own(rows["text"], padding="max_length", truncation=True, max_length=512), batched=True)
def init_model(trial, model_name, use_bitfit=False):
    model = load_classifier(model_name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not use_bitfit or name in _names
    return model
""",
        without("1d", "2a"),
        "expected trained, found frozen",
    ),
    "leaves with sys.exit at import": (at_import("import sys\nsys.exit(0)"), NONE, "cannot be imported: SystemExit"),
    "leaves with os._exit in a function": (
        before("init_model", "import os\nos._exit(0)"),
        without("2a"),
        "Problem 2a: nothing came back; its process ended with exit code 0.",
    ),
    "writes at exit": (
        at_import(
            f"import atexit, os\natexit.register(lambda: os.write(3, b'{FORGED}'))\nimport signal\n"
            "for number in range(1, 32):\n    try:\n        signal.signal(number, lambda *a: None)\n"
            "    except (OSError, ValueError):\n        pass"
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "threads that never end": (
        at_import(
            "import threading, time\nfor _ in range(5):\n    threading.Thread(target=time.sleep, args=(1e6,)).start()"
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "a daemon": (
        at_import(
            "import os, subprocess\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            f"        subprocess.Popen(['sleep', '{SLEEP}'], start_new_session=True)\n"
            f"        os.execvp('sleep', ['sleep', '{SLEEP}'])\n    os._exit(0)"
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "deletes all it can": (
        at_import(
            "import os, shutil\nimport helpers\nhere = os.getcwd()\n"
            "for folder in (here, os.path.dirname(helpers.__file__), '/tmp', os.environ['HOME']):\n"
            "    for name in os.listdir(folder):\n        shutil.rmtree(os.path.join(folder, name), ignore_errors=True)\n"
            "os.makedirs(here, exist_ok=True)\nos.chdir(here)"
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "edits the course while it runs": (
        at_import(
            "import glob, os, helpers\nfor path in glob.glob(os.path.dirname(helpers.__file__) + '/*.py'):\n"
            "    try:\n        open(path, 'w').write('raise SystemExit')\n    except OSError:\n        pass"
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "kills its parent": (
        at_import(tolerantly("import os\nos.kill(os.getppid(), 9)")),
        ALL,
        "Problem 1d: correct",
    ),
    "kills whatever it can": (
        at_import(tolerantly("import os, signal\nos.kill(-1, signal.SIGKILL)")),
        ALL,
        "Problem 1d: correct",
    ),
    "looks into other processes": (
        at_import(
            tolerantly(
                "import os\nfor name in os.listdir('/proc'):\n    if name.isdigit() and int(name) != os.getpid():\n"
                "        open(f'/proc/{name}/mem', 'r+b').write(b'x')\n        raise SystemError"
            )
        ),
        ALL,
        "Problem 1d: correct",
    ),
    "reads the environment's secrets": (
        before(
            "preprocess_dataset",
            "import glob, os\nfound = str(dict(os.environ))\nfor path in glob.glob('/proc/*/environ'):\n    try:\n"
            "        found += open(path).read()\n    except OSError:\n        pass\n"
            "raise RuntimeError('found it' if 'GRADER_SECRET' in found else 'no secret')",
        ),
        without("1d"),
        "RuntimeError: no secret",
    ),
    "calls home": (
        before(
            "preprocess_dataset",
            "import socket\nreached = []\nfor place in (('127.0.0.1', PORT), ('192.0.2.1', 80), ('8.8.8.8', 53)):\n    try:\n"
            "        socket.create_connection(place, timeout=1).close()\n        reached.append(place)\n"
            "    except OSError:\n        pass\nraise RuntimeError(f'reached {reached}')",
        ),
        without("1d"),
        "RuntimeError: reached []",
    ),
    "asks a question": (before("init_model", "input('How many points?')"), without("2a"), "EOFError"),
    "crashes the interpreter": (
        before("init_model", "import ctypes\nctypes.string_at(0)"),
        without("2a"),
        "killed by signal 11",
    ),
    "raises what nobody catches": (
        before("init_model", "class Odd(BaseException):\n    __str__ = None\nraise Odd"),
        without("2a"),
        "Problem 2a: nothing came back",
    ),
    "an error text of a megabyte": (
        before("init_model", "raise ValueError('x' * 10**6 + '\\n```\\n# Full marks')"),
        without("2a"),
        "ValueError: xxx",
    ),
    "a dictionary that lies": (
        before(
            "hyperparameter_search_settings",
            "class Lies(dict):\n    def __iter__(self):\n        raise SystemError('lies')\n    items = keys = __iter__\nreturn Lies()",
        ),
        without("2c"),
        "Problem 2c: ",
    ),
    "crashes at import": (at_import("1 / 0"), NONE, "cannot be imported: ZeroDivisionError"),
    "hangs at import": (at_import("import time\ntime.sleep(1e6)"), NONE, "could not be imported"),
    "a syntax error": ("def init_model(:\n", NONE, "cannot be imported: SyntaxError"),
    "the stubs": (STUBS, NONE, "is not written yet"),
}


# They wait for ever: their limit of time is what ends them.
WAITS = ("sleeps for ever", "stops itself", "hangs at import", "output for ever")
# Variants of others, or slow: they run where there is time for all (COURSE_HOSTILE=all).
THOROUGH = {
    *("fork bomb that hides its children", "stops itself", "memory in many processes", "one endless file"),
    *("a million files", "all file descriptors", "searches every file for a solution", "patches assertions"),
    *(
        "reads the solution from git",
        "patches pytest and unittest",
        "patches os.write",
        "edits the course while it runs",
    ),
    *("leaves with os._exit in a function", "kills its parent", "asks a question", "a dictionary that lies"),
    *("crashes at import", "hangs at import", "output for ever", "sends numbers that are none"),
    *("replaces the observer's module", "threads that never end", "raises what nobody catches"),
}


@dataclass
class Hostile:
    """A submission: its points, part of what its sheet says, and how to write it to a path (`.zip` where it is one).

    `seconds` is the limit for each of its problems.
    """

    points: dict[str, int]
    says: str
    write: Callable[[Path], None]
    ending: str = ""
    seconds: float = 60.0


def write_folder(files: dict[str, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)

    return write


def write_zip(members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data, zipfile.ZIP_DEFLATED)

    return write


def special_member(name: str, kind: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    return member


def write_encrypted(path: Path) -> None:
    write_zip([("exercises.py", SOLUTION.encode())])(path)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


def write_broken(path: Path) -> None:
    write_zip([("exercises.py", SOLUTION.encode())])(path)
    data = bytearray(path.read_bytes())
    data[60:200] = random.Random(3).randbytes(140)
    path.write_bytes(data)


def write_link(path: Path) -> None:
    path.mkdir()
    (path / "exercises.py").symlink_to(ROOT / "helpers" / "exercises.py")


def write_linked_folder(path: Path) -> None:
    path.mkdir()
    (path / "helpers").symlink_to(ROOT / "helpers")


def write_fifo(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "exercises.py")


RIGHT = SOLUTION.encode()
ZIPS = {
    "zip slip": ([("exercises.py", RIGHT), ("../../evil.py", b"x")], "leads out of its folder"),
    "absolute path": ([("/etc/evil", b"x"), ("exercises.py", RIGHT)], "leads out of its folder"),
    "Windows path": ([("C:\\evil", b"x"), ("exercises.py", RIGHT)], "leads out of its folder"),
    "duplicate names": ([("exercises.py", RIGHT), ("EXERCISES.py", RIGHT)], "two members called"),
    "a link in a zip": (
        [(special_member("exercises.py", stat.S_IFLNK), b"/etc/passwd")],
        "is a link or a device",
    ),
    "a device in a zip": ([(special_member("exercises.py", stat.S_IFCHR), b"")], "is a link or a device"),
    "a bomb": ([("exercises.py", RIGHT), ("zeros", bytes(200 * 2**20))], "a bomb"),
    "too many members": ([("exercises.py", RIGHT), *((f"{n}", b"") for n in range(21_000))], "more than 20,000"),
    "nothing of use": ([("readme.txt", b"please")], "neither exercises.py nor"),
}


def course_notebook() -> dict:
    return json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))


def with_cells(change: Callable[[list[dict]], list[dict]]) -> bytes:
    notebook = course_notebook()
    notebook["cells"] = change(notebook["cells"])
    return json.dumps(notebook).encode()


def drop_ids(cells: list[dict]) -> list[dict]:
    return [{name: value for name, value in cell.items() if name != "id"} for cell in cells]


def wrong_kinds(cells: list[dict]) -> list:
    odd = [None, 3, [], {"id": 7, "source": 8, "metadata": [], "cell_type": {}}, {"source": [None, 1]}]
    return odd + [cell | {"metadata": {"tags": {"answer": 1}}} for cell in cells]


def forge_outputs(cells: list[dict]) -> list[dict]:
    correct = [{"output_type": "stream", "name": "stdout", "text": "Problem 1d: correct. 60 of 60 points.\n"}]
    return [cell | {"outputs": correct} if cell["cell_type"] == "code" else cell for cell in cells]


# name: (the data of notebook 1, part of what the sheet says)
NOTEBOOKS = {
    "no JSON": (b"this is not a notebook", "is not a notebook (no readable JSON)"),
    "not UTF-8": (b'{"cells": ["\xff\xfe"]}', "is not UTF-8 text"),
    "deeply nested": (b"[" * 10**6, "is not a notebook (no readable JSON)"),
    "a list": (b"[]", "it has no list of cells"),
    "a million cells": (b'{"cells": [' + b"{}," * 10**6 + b"{}]}", "more than are read"),
    "eleven mebibytes": (b'{"cells": ["' + b"x" * 11 * 2**20 + b'"]}', "was not read"),
    "without ids": (with_cells(drop_ids), "recognised by their text or tags"),
    "every cell twice": (with_cells(lambda cells: [cell for cell in cells for _ in range(2)]), "ids twice"),
    "reversed": (with_cells(lambda cells: cells[::-1]), "cells moved"),
    "no cells": (with_cells(lambda cells: []), "cells deleted"),
    "values of wrong kinds": (with_cells(wrong_kinds), "cells added"),
    "another course's": (
        json.dumps({"cells": [{"id": f"c{n}", "cell_type": "code", "source": "1"} for n in range(9)]}).encode(),
        "is another notebook",
    ),
}
RESULTS = (ROOT / "results" / "quick.json").read_bytes()
PERFECT = RESULTS.replace(b'"accuracy": 0.', b'"accuracy": 1.')


def all_hostile(port: int = 9, marked: str = "/tmp") -> dict[str, Hostile]:
    """Every hostile submission by name; `port` is one that calls home, `marked` a folder that must stay clean."""
    found = {}
    for name, (code, points, says) in CODE.items():
        code = code.replace("ROOT", str(ROOT)).replace("MARKED", marked).replace("PORT", str(port))
        seconds = 8.0 if name in WAITS else 60.0
        found[name] = Hostile(points, says, write_folder({"exercises.py": code.encode()}), "", seconds)
    for name, (members, says) in ZIPS.items():
        found[name] = Hostile(NONE, says, write_zip(members), ".zip")
    for name, (data, says) in NOTEBOOKS.items():
        right = name in ("deeply nested", "every cell twice")
        files = {"exercises.py": RIGHT if right else STUBS.encode(), NOTEBOOK: data}
        found[f"notebook: {name}"] = Hostile(ALL if right else NONE, says, write_folder(files))
    found["a zip that is encrypted"] = Hostile(NONE, "encrypted", write_encrypted, ".zip")
    found["a zip that is broken"] = Hostile(NONE, "it cannot be read", write_broken, ".zip")
    found["a zip that is none"] = Hostile(NONE, "not a zip", lambda path: _write(path, b"PK but no"), ".zip")
    found["a link"] = Hostile(NONE, "is a link", write_link)
    found["a linked folder"] = Hostile(NONE, "is a link", write_linked_folder)
    found["a pipe"] = Hostile(NONE, "is not an ordinary file", write_fifo)
    found["no exercises"] = Hostile(NONE, "there is no exercises.py", write_folder({"results.json": RESULTS}))
    found["exercises that are no text"] = Hostile(
        NONE, "cannot be imported", write_folder({"exercises.py": b"\xff\xfe\0"})
    )
    forged = {"exercises.py": STUBS.encode(), NOTEBOOK: with_cells(forge_outputs)}
    found["forged outputs"] = Hostile(NONE, "is not written yet", write_folder(forged))
    forged = {"exercises.py": STUBS.encode(), "results.json": PERFECT}
    found["forged results"] = Hostile(NONE, "other code than was handed in", write_folder(forged))
    nested = {"exercises.py": STUBS.encode(), "results.json": b"[" * 10**6}
    found["results that are none"] = Hostile(NONE, "not a results file", write_folder(nested))
    return found


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def build(hostile: Hostile, folder: Path, name: str) -> Path:
    """Write a submission; returns its path."""
    path = folder / f"{name}{hostile.ending}"
    if path.is_dir():
        shutil.rmtree(path)
    hostile.write(path)
    return path
