"""Fresh inputs for each submission, and the expected results for them; no untrusted code ever runs here.

`python -m instructor.prepare` imports torch once, then reads lines of JSON, {"seed": ..., "folder": ...}, until its
standard input is closed, and answers each with a line of JSON, {"given": ..., "expected": ...}, both by problem.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

SOUNDS = ("al", "be", "co", "dra", "e", "fo", "gni", "ha", "ip", "ju", "kle", "lo", "mu", "no", "pra", "qui", "ro")
MARKS = (" ", " ", " ", " ", ", ", "; ", ". ", " - ", "! ", "<br />", "'s ", " 7 ", " é ")
MARKS += ("n't ", "... ", "-", " *", " 7/10 ", ' "', " (", ") ", " the ", " of ", " baaad ", " 👎 ", " www.dull.org ")
TABLES = ("relative_attention_bias", "position_bias", "bias_table", "token_biases")


def prepare(seed: int, folder: Path) -> dict[str, Any]:
    """Make inputs that no student has seen, and the results that are expected for them.

    The folder gets a random BERT that nobody can have memorised, with a shuffled vocabulary, and a fine-tuned one. Both
    have the public model's shape: students' functions may rely on its layer names and number of parameters.
    """
    import torch
    from transformers import BertConfig, BertModel

    from helpers.checks.inputs import expect, give_1d, give_2b
    from helpers.settings import OFFLINE, Settings

    draw = random.Random(seed)
    torch.manual_seed(seed)
    public, model, saved = OFFLINE / "checkpoint", str(folder / "model"), str(folder / "fine-tuned")
    BertModel(BertConfig.from_pretrained(public)).half().save_pretrained(model)
    words = (public / "vocab.txt").read_text(encoding="utf-8").splitlines()
    ordinary = words[1000:]  # The special tokens stay at the start, where the library expects them.
    draw.shuffle(ordinary)
    Path(model, "vocab.txt").write_text("\n".join(words[:1000] + ordinary) + "\n", encoding="utf-8")

    known = [word for word in ordinary[:3000] if word.isascii() and word.isalpha() and len(word) > 2]
    short = [write_review(draw, known, draw.randint(3, 25)) for _ in range(draw.randint(3, 5))]
    long = [write_review(draw, known, draw.randint(600, 900)) for _ in range(2)]
    long.append(" ".join(draw.choices(known, k=600)))
    positive = [True] * 27
    for index in draw.sample(range(16), 7) + draw.sample(range(16, 27), draw.randint(1, 10)):
        positive[index] = False
    cells = Settings().cells
    ranks = draw.sample(range(len(cells)), len(cells))
    given = {
        "1d": give_1d(model, short, long, [draw.randint(0, 1) for _ in range(8)]),
        "2a": {"model": model, "table": draw.choice(TABLES)},
        "2b": give_2b(model, saved, short, positive),
        # They differ by one review in 5,000, as in the student's check.
        "2c": {"accuracies": [[cell, 0.8 + 0.0002 * rank] for cell, rank in zip(cells, ranks, strict=True)]},
    }
    return {"given": given, "expected": {problem: expect(problem, given[problem]) for problem in given}}


def write_review(draw: random.Random, known: list[str], length: int) -> str:
    """Words from the vocabulary and made-up words, with odd marks between them."""
    made_up = ("".join(draw.choices(SOUNDS, k=draw.randint(2, 5))) for _ in range(length))
    words = (draw.choice(known) if draw.random() < 0.7 else new for new in made_up)
    return "".join(word + draw.choice(MARKS) for word in words).strip() or "film"


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # Libraries may print, too.
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(prepare(asked["seed"], Path(asked["folder"]))), file=out, flush=True)
