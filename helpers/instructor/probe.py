"""A server of sandboxed runs: `python probe.py SOCKET`, with PYTHONPATH at a copy of the course without solutions.

It imports torch and the course once. Each job is a fork of it: either the course's own code that prepares inputs and
expectations, or untrusted code in a sandbox. No untrusted code is ever imported here, and no expectation is ever known
here, so a fork has nothing to find. A job is one line of JSON over the socket, and so is its answer.
"""

import gc
import importlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

SOUNDS = ("al", "be", "co", "dra", "e", "fo", "gni", "ha", "ip", "ju", "kle", "lo", "mu", "no", "pra", "qui", "ro")
MARKS = (" ", " ", " ", " ", ", ", "; ", ". ", " - ", "! ", "<br />", "'s ", " 7 ", " é ")
SWEEP = """
from helpers.settings import load_settings
from helpers.sweep import run_sweep
run_sweep(load_settings(), workers=0)
"""
TABLES = ("relative_attention_bias", "position_bias", "bias_table", "token_biases")


def serve(address: str, with_torch: bool) -> None:
    """Answer jobs until the process that started this one closes our standard input."""
    sandbox = importlib.import_module("sandbox")  # It stands beside this script, outside of the course's copy.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    if with_torch:
        import torch

        import helpers.expect  # noqa: F401  All that the jobs need, so that no fork has to import it.
        import helpers.observe  # noqa: F401

        torch.set_num_threads(1)
        gc.collect()
        gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the jobs' processes.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:  # It has nothing to say to us: it has closed the pipe, or died.
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            with connection, connection.makefile("r") as lines, connection.makefile("w") as out:
                try:
                    answer = do(json.loads(lines.readline()), sandbox)
                except Exception as error:
                    answer = {"failed": f"{type(error).__name__}: {error}"}
                json.dump(answer, out)
                out.flush()
            os._exit(0)
        connection.close()


def do(job: dict[str, Any], sandbox: ModuleType) -> dict[str, Any]:
    if job["kind"] == "prepare":
        return prepare(job["seed"], Path(job["folder"]))
    actions = {"observe": observe_exercises, "notebooks": rerun_notebooks, "fingerprint": fingerprint}
    action = actions[job["kind"]]
    place = sandbox.Place(job["degree"], tempfile.mkdtemp(dir=job["base"]), tuple(job["readable"]))
    os.chmod(place.base, 0o755)
    limits = sandbox.Limits(**job["limits"])

    def act(scratch: str, result: int) -> None:
        os.environ.clear()
        os.environ.update(sandbox.clean_environment(scratch, **job["environment"]))
        tempfile.tempdir = f"{scratch}/tmp"
        action(job, scratch, result)

    outcome = vars(sandbox.supervise(act, place, limits))
    sandbox.remove_tree(place.base)
    return outcome


def observe_exercises(job: dict[str, Any], scratch: str, result: int) -> None:
    """In the sandbox: import the exercises, run one problem's functions, and write what was seen."""
    from helpers.checks import FUNCTIONS
    from helpers.observe import observe, quiet_workshop

    problem = job["problem"]
    with quiet_workshop():
        stopped, solutions = None, ()
        try:
            module = import_exercises(job["exercises"])
        except (Exception, SystemExit) as error:
            line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
            first = next(iter(str(error).splitlines()), "")[:300]
            stopped = f"exercises.py cannot be imported: {type(error).__name__}: {first}{line}"
        else:
            missing = [name for name in FUNCTIONS[problem] if not callable(getattr(module, name, None))]
            if missing:
                stopped = f"exercises.py has no function {', '.join(missing)}."
            solutions = tuple(getattr(module, name, None) for name in FUNCTIONS[problem])
        os.write(result, b'"imported"\n')
        seen = observe(problem, solutions, job["given"]) if stopped is None else {"records": [], "stopped": stopped}
        data = json.dumps(seen, allow_nan=False).encode()
        while data:
            data = data[os.write(result, data) :]
    os._exit(0)  # Whatever untrusted code has left to do is not waited for.


def import_exercises(path: str) -> ModuleType:
    """Import a submission's exercises as `helpers.exercises`, wherever they lie."""
    import helpers

    spec = importlib.util.spec_from_file_location("helpers.exercises", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["helpers.exercises"] = helpers.exercises = module
    spec.loader.exec_module(module)
    return module


def rerun_notebooks(job: dict[str, Any], scratch: str, result: int) -> None:
    """In the sandbox: re-execute notebooks with nbval, one after the other; writes what pytest said of each.

    The grid of notebook 3 is trained beforehand in a single process, which takes less memory than workers do.
    """
    shutil.copytree(job["notebooks"], f"{scratch}/notebooks")
    options = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={job['cell_seconds']}"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *options]
    said = {}
    for name, profile in job["profiles"].items():
        environment = os.environ | {"COURSE_PROFILE": profile}
        with open(f"{scratch}/said", "w+b") as log:
            everything = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, "env": environment}
            if job["sweep_before"] == name:
                subprocess.run([sys.executable, "-c", SWEEP], cwd=scratch, check=False, **everything)
                log.truncate(0)
            done = subprocess.run([*pytest, f"notebooks/{name}"], cwd=scratch, check=False, **everything)
            log.seek(0)
            said[name] = {"code": done.returncode, "text": log.read(100_000).decode("utf-8", "replace")}
    os.write(result, json.dumps(said).encode())


def fingerprint(job: dict[str, Any], scratch: str, result: int) -> None:
    """In the sandbox: the hash by which a results file names the code that made it; nothing of it is executed."""
    from helpers.results import fingerprint_code, list_recipe

    os.write(result, fingerprint_code(*list_recipe(Path(job["exercises"]))).encode())


def prepare(seed: int, folder: Path) -> dict[str, Any]:
    """Make inputs that no student has seen, and what right solutions give on them.

    Saved in the folder are a random BERT with a vocabulary in another order and more layers than the public one's two,
    which nobody can have memorised, and a fine-tuned one. Returns `given` and `expected`: from each problem to JSON.
    """
    import torch
    from transformers import BertConfig, BertModel

    from helpers.expect import expect, give_1d, give_2b
    from helpers.settings import OFFLINE, Settings

    draw = random.Random(seed)
    torch.manual_seed(seed)
    model, saved = str(folder / "model"), str(folder / "fine-tuned")
    heads = draw.choice([2, 3, 4])
    width = {"hidden_size": heads * draw.randint(4, 10), "num_attention_heads": heads}
    shape = {"num_hidden_layers": draw.choice([3, 4]), "intermediate_size": draw.randint(20, 60)}
    BertModel(BertConfig(**width, **shape)).half().save_pretrained(model)
    words = (OFFLINE / "checkpoint" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    ordinary = words[1000:]  # Before them stand the special tokens, where the library looks for them.
    draw.shuffle(ordinary)
    Path(model, "vocab.txt").write_text("\n".join(words[:1000] + ordinary) + "\n", encoding="utf-8")

    known = [word for word in ordinary[:3000] if word.isascii() and word.isalpha() and len(word) > 2]
    short = [write_review(draw, known, draw.randint(3, 25)) for _ in range(draw.randint(3, 5))]
    long = [write_review(draw, known, draw.randint(600, 900)) for _ in range(2)]
    positive = [True] * 24
    for index in draw.sample(range(16), 7) + draw.sample(range(16, 24), draw.choice([1, 2, 3, 5, 6, 7])):
        positive[index] = False
    cells = Settings().cells
    ranks = draw.sample(range(len(cells)), len(cells))
    given = {
        "1d": give_1d(model, short, long, [draw.randint(0, 1) for _ in range(8)]),
        "2a": {"model": model, "table": draw.choice(TABLES)},
        "2b": give_2b(model, saved, short, positive),
        "2c": {"accuracies": [[cell, 0.4 + 0.025 * rank] for cell, rank in zip(cells, ranks, strict=True)]},
    }
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {"given": given, "expected": {problem: expect(problem, given[problem]) for problem in given}}


def write_review(draw: random.Random, known: list[str], length: int) -> str:
    """Words of the vocabulary and words that nobody has ever written, with odd marks between them."""
    made_up = ("".join(draw.choices(SOUNDS, k=draw.randint(2, 5))) for _ in range(length))
    words = (draw.choice(known) if draw.random() < 0.7 else new for new in made_up)
    return "".join(word + draw.choice(MARKS) for word in words).strip() or "film"


if __name__ == "__main__":
    serve(sys.argv[1], with_torch="--torch" in sys.argv)
