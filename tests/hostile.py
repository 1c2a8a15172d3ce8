# ruff: noqa: E501  (the code of a submission is a string, on as few lines as can be read)
"""Submissions that nobody should trust, with the points they deserve, and how such code is made."""

from pathlib import Path

from instructor.sheet import AUTOMATIC

ROOT = Path(__file__).parents[1]
SOLUTION = (ROOT / "helpers" / "exercises.py").read_text(encoding="utf-8")
ALL = AUTOMATIC
NONE = dict.fromkeys(ALL, 0)
NAMES = ("preprocess_dataset", "init_model", "init_trainer", "init_tester", "hyperparameter_search_settings")
STUBS = "".join(f"def {name}(*arguments, **options):\n    raise NotImplementedError\n\n\n" for name in NAMES)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def without(*problems: str) -> dict[str, int]:
    return ALL | dict.fromkeys(problems, 0)


def before(rest: str = SOLUTION, **attacks: str) -> str:
    """The solution, but each of these functions does something first."""
    for function, code in attacks.items():
        lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
        right = f"_right_{function}"
        rest += f"\n\n{right} = {function}\n\n\ndef {function}(*a, **k):\n{lines}\n    return {right}(*a, **k)\n"
    return rest


def at_import(code: str, rest: str = SOLUTION) -> str:
    return f"{code.strip()}\n\n{rest}"


def into_every_pipe(data: str) -> str:
    lines = "import os\nfor number in range(3, 64):\n    try:\n        os.write(number, DATA)\n"
    return lines.replace("DATA", data) + "    except OSError:\n        pass\nos._exit(0)"


# Mistakes that a student may make: what stands in the solution, and what is written in its place.
MISTAKES = {
    "1d": ('padding="max_length"', "padding=True"),
    "2a": ('name.endswith(".bias")', '"bias" in name'),
    "2b": ("num_train_epochs=4", "num_train_epochs=3"),
    "2c": ('"pruner": optuna.pruners.NopPruner(),', ""),
}


def mistaken(*problems: str) -> str:
    """The solution with a mistake in each of these problems."""
    code = SOLUTION
    for old, new in map(MISTAKES.__getitem__, problems):
        assert old in code
        code = code.replace(old, new)
    return code


FORGED = '{"records": [{"kind": "Dataset"}], "stopped": null}'

# A few attacks share a submission, for each submission takes the sandbox seconds. What is right after them has its points.
# name: (the whole of exercises.py, points, for some problems a part of what the sheet says)
CODE: dict[str, tuple[str, dict[str, int], dict[str, str]]] = {
    "takes all it can": (
        before(
            preprocess_dataset="import os\nwhile True:\n    os.fork()",
            init_model="while True: pass",
            init_trainer=into_every_pipe("b'0' * 10**7"),
        ),
        without("1d", "2a", "2b"),
        {"2a": "it used more than 5 s of CPU", "2b": "it returned more than"},
    ),
    # It traces the runner, looks for keys, leaves a daemon, writes at exit, talks much, runs the checks, and halts all.
    "works beside the checks": (
        at_import(
            "import atexit, ctypes, os, signal, subprocess\n"
            "tried = [ctypes.CDLL(None).ptrace(16, os.getppid(), None, None) == 0]\n"
            "for name in ('mem', 'fd/3'):\n    try:\n        open(f'/proc/{os.getppid()}/{name}', 'r+b', 0)\n"
            "    except OSError:\n        continue\n    tried.append(name)\n"
            "if os.uname().machine == 'x86_64':\n"  # keyctl's search in the session's keyring, for the test's own key
            "    tried.append(ctypes.CDLL(None).syscall(250, 10, -3, b'user', b'mark', 0) != -1)\n"
            "if any(tried):\n    raise SystemError(tried)\n"
            "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        subprocess.Popen(['sleep', '9173'], start_new_session=True)\n"
            "        os.execvp('sleep', ['sleep', '9173'])\n    os._exit(0)\n"
            f"atexit.register(lambda: os.write(3, b'{FORGED}'))\n"
            "for number in range(1, 32):\n    try:\n        signal.signal(number, lambda *a: None)\n"
            "    except (OSError, ValueError):\n        pass",
            before(
                preprocess_dataset="import os\nfor _ in range(50):\n    os.write(1, b'x' * 2**20)",
                init_model="import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)",
            )
            + "\nfrom helpers import checks\nfrom helpers.checks import CheckFailed, problem_1d\n"
            + "checks.problem_1d(preprocess_dataset)\nproblem_1d(preprocess_dataset, model=None)\n",
        ),
        ALL,
        {"1d": "correct", "2a": "correct"},
    ),
    "reaches outside": (  # It looks for the solution by its path, writes there, kills, and calls home.
        at_import(
            "import os, pathlib, signal, sys\nif os.path.exists('ROOT/helpers/exercises.py'):\n    raise SystemError\n"
            "for folder in ('ROOT', 'MARKED', sys.prefix, '/usr', '/etc', '/'):\n"
            "    try:\n        pathlib.Path(folder, 'written-by-hostile').write_text('x')\n"
            "    except OSError:\n        pass\n"
            "try:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass",
            before(
                preprocess_dataset="import socket\nreached = []\n"
                "for place in (('127.0.0.1', PORT), ('192.0.2.1', 80), ('8.8.8.8', 53)):\n    try:\n"
                "        socket.create_connection(place, timeout=1).close()\n        reached.append(place)\n"
                "    except OSError:\n        pass\nraise RuntimeError(f'reached {reached}')"
            ),
        ),
        without("1d"),
        {"1d": "RuntimeError: reached []", "2a": "correct"},
    ),
    "patches the checks": (  # It forges what the probe sends, and writes into the runner's own pipe, too.
        at_import(
            "import json\nfrom helpers import checks\nfrom helpers.checks import observe\n"
            "checks.judge = lambda *a: 'correct'\nchecks._expect = lambda *a: None\n"
            "for name in ('1d', '2a', '2b', '2c'):\n    setattr(checks, f'problem_{name}', lambda *a, **k: print('correct'))\n"
            "    observe.OBSERVERS[name] = lambda *a: iter([{'kind': 'dict', 'correct': True}] * 20)\n"
            "for name in ('1d', '2a', '2b', '2c', 'ready', 'notes', 'import'):\n    try:\n"
            "        with open('/proc/1/fd/3', 'w') as pipe:\n"
            "            pipe.write('\\n' + json.dumps([name, {'code': 0, 'reason': '', 'text': '[1]'}]) + '\\n')\n"
            "    except OSError:\n        pass",
            before(STUBS, preprocess_dataset=into_every_pipe(f"b'{FORGED}'")),
        ),
        NONE,
        {},
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
        without("1d"),  # Of 2a it knows the names of the biases, which are those of the students' own model.
        {"1d": "Problem 1d: input_ids of review 0"},
    ),
    "takes 10 GB at once, leaves early, or walks its frames to what is expected": (
        before(
            preprocess_dataset="data = bytearray(10 * 2**30)",
            init_model="import os\nos._exit(0)",
            init_trainer="import sys\nframe = sys._getframe()\nwhile frame:\n"
            "    if 'expected' in {**frame.f_globals, **frame.f_locals}:\n        raise SystemError('found')\n"
            "    frame = frame.f_back\nraise KeyError('not there')",
        ),
        without("1d", "2a", "2b"),
        {
            "1d": "MemoryError",
            "2a": "nothing came back; its process ended with exit code 0.",
            "2b": "KeyError: 'not there'",
        },
    ),
    "spins at import": (
        at_import("while True: pass"),
        NONE,
        {"1d": "could not be imported; stopped: it used more than 5 s of CPU"},
    ),
}
LOOKS_FOR_AN_INSTALLED_SOLUTION = (
    "import importlib.util, sys\nfound = None\nfor folder in sys.path:\n    try:\n"
    "        spec = importlib.util.spec_from_file_location('other', folder + '/helpers/exercises.py')\n"
    "        found = importlib.util.module_from_spec(spec)\n        spec.loader.exec_module(found)\n        break\n"
    "    except Exception:\n        found = None\nglobals().update(vars(found))"
)
