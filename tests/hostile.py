# ruff: noqa: E501  (the code of a submission is a string, on as few lines as can be read)
"""Submissions that nobody should trust, with the points they deserve, and how such code is made."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOLUTION = (ROOT / "helpers" / "exercises.py").read_text(encoding="utf-8")
ALL = {"1d": 10, "2a": 10, "2b": 20, "2c": 20}
NONE = dict.fromkeys(ALL, 0)
NAMES = ("preprocess_dataset", "init_model", "init_trainer", "init_tester", "hyperparameter_search_settings")
STUBS = "".join(f"def {name}(*arguments, **options):\n    raise NotImplementedError\n\n\n" for name in NAMES)
SLEEP = f"9173{os.getpid()}"  # Tells the sleeping processes of one run of the tests from another's.


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


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

# name: (the whole of exercises.py, points, part of what the sheet says)
CODE: dict[str, tuple[str, dict[str, int], str]] = {
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
    "a gigabyte of output": (
        before("preprocess_dataset", "import os\nfor _ in range(1000):\n    os.write(1, b'x' * 2**20)"),
        ALL,
        "Problem 1d: correct",
    ),
    "fills the disk": (
        before("preprocess_dataset", "for part in range(10**6):\n    open(f'{part}', 'wb').write(b'x' * 2**24)"),
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
    "patches named_parameters": (
        at_import("import torch\ntorch.nn.Module.named_parameters = lambda *a, **k: iter(())"),
        without("2a", "2b"),
        "Problem 2a: ",
    ),
    "patches the Trainer's evaluation": (
        at_import("import transformers\ntransformers.Trainer.evaluate = lambda *a, **k: {'eval_accuracy': 1.0}"),
        without("2c"),  # Check 2b measures with a Trainer of its own.
        "called eval_accuracy",
    ),
    "replaces the observer's module": (
        at_import(
            "import sys\nclass Yes:\n    def __getattr__(self, name):\n        return lambda *a, **k: {'records': [], 'stopped': None}\n"
            "sys.modules['helpers.checks.observe'] = sys.modules['helpers.checks.inputs'] = Yes()",
            STUBS,
        ),
        NONE,
        "Problem 2a: ",
    ),
    "memorised the public check": (
        SOLUTION
        + """
from helpers.settings import OFFLINE
from helpers.models import load_tokenizer
MODEL = str(OFFLINE / "checkpoint")
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
    "runs the checks itself": (
        SOLUTION
        + "\nfrom helpers import checks\nfrom helpers.checks import CheckFailed, problem_1d\n"
        + "checks.problem_1d(preprocess_dataset)\nproblem_1d(preprocess_dataset, model=None)\n",
        ALL,
        "Problem 1d: correct",
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
    "kills its parent": (at_import(tolerantly("import os\nos.kill(os.getppid(), 9)")), ALL, "Problem 1d: correct"),
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
    "traces the runner": (
        at_import(
            "import ctypes, os\ntried = [ctypes.CDLL(None).ptrace(16, os.getppid(), None, None) == 0]\n"
            "for name in ('mem', 'fd/3'):\n    try:\n        open(f'/proc/{os.getppid()}/{name}', 'r+b', 0)\n"
            "    except OSError:\n        continue\n    tried.append(name)\nif any(tried):\n    raise SystemError(tried)"
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
    "spins at import": (
        at_import("while True: pass"),
        NONE,
        "could not be imported; stopped: it took more than 8 s of CPU",
    ),
    "a syntax error": ("def init_model(:\n", NONE, "cannot be imported: SyntaxError"),
    "the stubs": (STUBS, NONE, "is not written yet"),
    "walks its frames to what is expected": (
        before(
            "init_model",
            "import sys\nframe = sys._getframe()\nwhile frame:\n    if 'expected' in {**frame.f_globals, **frame.f_locals}:\n"
            "        raise SystemError('found')\n    frame = frame.f_back\nraise KeyError('not there')",
        ),
        without("2a"),
        "KeyError: 'not there'",
    ),
    "looks for an installed solution": (
        at_import(
            "import importlib.util, sys\nfound = None\nfor folder in sys.path:\n    try:\n"
            "        spec = importlib.util.spec_from_file_location('other', folder + '/helpers/exercises.py')\n"
            "        found = importlib.util.module_from_spec(spec)\n        spec.loader.exec_module(found)\n        break\n"
            "    except Exception:\n        found = None\nglobals().update(vars(found))",
            "",
        ),
        NONE,
        "cannot be imported: TypeError",
    ),
    "writes into the runner's own pipe": (
        at_import(
            "import json, os\nfor name in ('1d', '2a', '2b', '2c', 'ready', 'notes', 'import'):\n    try:\n"
            "        with open('/proc/1/fd/3', 'w') as pipe:\n"
            "            pipe.write('\\n' + json.dumps([name, {'code': 0, 'reason': '', 'text': '[1]'}]) + '\\n')\n"
            "    except OSError:\n        pass",
            STUBS,
        ),
        NONE,
        "Problem 2a: ",
    ),
    "names a limit that there is not": (
        at_import(
            "import json\ntry:\n    with open('/proc/1/fd/3', 'w') as pipe:\n        for name in ('1d', '2a', '2b', '2c'):\n"
            "            pipe.write(json.dumps([name, {'code': 'x', 'reason': 'tired', 'text': []}]) + '\\n')\n"
            "except OSError:\n    pass"
        ),
        ALL,
        "Problem 1d: correct",
    ),
}

# They wait for ever: their limit of time is what ends them.
WAITS = ("sleeps for ever", "stops itself", "hangs at import")
# One of each kind. The others run where there is time for all (COURSE_HOSTILE=all).
REPRESENTATIVES = {
    "fork bomb", "infinite loop", "10 GB at once", "sends far too much", "a daemon", "kills whatever it can",
    "reads the solution by its path", "calls home", "patches the checks", "forges what the probe sends",
    "memorised the public check", "writes at exit", "walks its frames to what is expected", "the stubs",
    "leaves with os._exit in a function", "runs the checks itself", "writes into the runner's own pipe", "traces the runner",
}  # fmt: skip
