# ruff: noqa: E501  (the code of a submission is a string, on as few lines as can be read)
"""Code that takes more than it should, or reaches outside, with the points it deserves; and how such code is made."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOLUTION = (ROOT / "helpers" / "exercises.py").read_text(encoding="utf-8")
ALL = {"1d": 10, "2a": 10, "2b": 20, "2c": 20}
NONE = dict.fromkeys(ALL, 0)
NAMES = ("preprocess_dataset", "init_model", "init_trainer", "init_tester", "hyperparameter_search_settings")
STUBS = "".join(f"def {name}(*arguments, **options):\n    raise NotImplementedError\n\n\n" for name in NAMES)
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


def into_every_pipe(data: str) -> str:
    lines = "import os\nfor number in range(3, 64):\n    try:\n        sent = os.write(number, DATA)\n"
    return lines.replace("DATA", data) + "    except OSError:\n        pass\nos._exit(0)"


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
FORGED = '{"records": [{"kind": "Dataset"}], "stopped": null}'

# What takes too much, or reaches for what is not its own. name: (the whole of exercises.py, points, part of what the sheet says)
FIRST: dict[str, tuple[str, dict[str, int], str]] = {
    "fork bomb": (before("preprocess_dataset", "import os\nwhile True:\n    os.fork()"), without("1d"), "Problem 1d: "),
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
    "10 GB at once": (before("preprocess_dataset", "data = bytearray(10 * 2**30)"), without("1d"), "Problem 1d: "),
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
    "twenty processes that spin": (
        before(
            "preprocess_dataset",
            "import os\nfor _ in range(20):\n    if os.fork() == 0:\n        while True: pass\nwhile True: pass",
        ),
        without("1d"),
        "Problem 1d: stopped: ",
    ),
    "memory in files without a name": (
        before(
            "init_model",
            "import os\nwhile True:\n    file = os.memfd_create('x')\n    for _ in range(4):\n        os.write(file, b'x' * 2**24)",
        ),
        without("2a"),
        "Problem 2a: ",
    ),
    "System V memory that nobody holds": (
        before(
            "init_model",
            "import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
            "for _ in range(100):\n    number = libc.shmget(0, 2**24, 0o1600)\n"
            "    address = libc.shmat(number, None, 0)\n    ctypes.memset(address, 1, 2**24)\n"
            "    libc.shmdt(ctypes.c_void_p(address))\ntime.sleep(1)",
        ),
        without("2a"),
        "Problem 2a: ",
    ),
    "asks the instructor's package": (
        at_import("from instructor import release, grade", STUBS),
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
        before("preprocess_dataset", into_every_pipe("b'[' * 10**6")),
        without("1d"),
        "not what this problem's functions give",
    ),
    "sends numbers that are none": (
        before("preprocess_dataset", into_every_pipe('b\'{"records": [NaN, 1e999], "stopped": null}\'')),
        without("1d"),
        "not what this problem's functions give",
    ),
    "sends far too much": (
        before("preprocess_dataset", into_every_pipe("b'0' * 10**7")),
        without("1d"),
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
            "from helpers import checks\nfrom helpers.checks import observe\n"
            "checks.judge = lambda *a: 'correct'\nchecks._expect = lambda *a: None\n"
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
}
