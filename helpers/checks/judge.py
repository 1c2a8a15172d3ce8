"""One judge for each code problem, which names the mistake.

A check has three parts: `inputs.expect` says what is right, `observe` runs the student's functions, and the judges
compare the two. The judges see only plain data: in grading, they never share a process with a student's code.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise, zip_longest
from typing import Any

from helpers.recipe import ASKED, COLUMNS, MEANINGS, Mistake, demand, tell

# What is often trained instead of the bias terms: a test of the parameter's name, and the hint.
HABITS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda name: True, "nothing was frozen: requires_grad is an attribute of each parameter, not of the model."),
    (lambda name: False, "everything was frozen: unfreeze what BitFit trains."),
    (lambda name: not name.endswith(".bias"), "the condition is the wrong way round."),
    (lambda name: "bias" in name, "check how the name ends; 'bias' may also occur elsewhere in it."),
    (lambda name: name.endswith(".bias") or "LayerNorm" in name, "LayerNorm's weights have one dimension, too."),
    (lambda name: name.endswith(".bias") or "classifier" in name, "here the classifier's random weight stays frozen."),
)
STATES = {True: "trained", False: "frozen"}


class CheckFailed(AssertionError):
    """A solution is wrong; the message has the problem, what was expected, what was found, and a hint."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"CheckFailed: {self}"]


def judge(problem: str, seen: dict[str, Any], expected: dict[str, Any]) -> str:
    """Compare what was seen of a solution with what is right; returns the praise or raises CheckFailed.

    `seen` may come from an untrusted process: if it is malformed, some exception is raised.
    """
    try:
        praise = JUDGES[problem](_read(seen), expected)
        if seen["stopped"] is not None:
            raise Mistake(seen["stopped"])
    except Mistake as mistake:
        raise CheckFailed(f"Problem {problem}: {mistake}") from None
    return f"Problem {problem}: correct. {praise}"


def _read(seen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was seen, record by record; if it ends too soon, the reason is the mistake."""
    yield from seen["records"]
    raise Mistake(seen["stopped"] or "it ended too early, for no known reason.")


def _judge_1d(seen: Iterator, expected: dict[str, Any]) -> str:
    for reviews, slips in zip(expected["reviews"], expected["slips"], strict=True):
        found, texts = next(seen), reviews["text"]
        rows = len(found["label"])
        demand("number of reviews", len(texts), rows, "one row per review, neither more nor fewer.")
        for name in COLUMNS:
            for row, (wanted, got) in enumerate(zip(reviews[name], found[name], strict=True)):
                if wanted == got:
                    continue
                hint = next((slip["hint"] for slip in slips if slip[name][row] == got), MEANINGS[name])
                if name == "input_ids" and got in reviews[name]:
                    hint = "these belong to another review: keep the rows in their order."
                what = f"{name} of review {row} ({texts[row][:20]}...)"
                if name != "label" and len(got) != 512:
                    what, wanted, got = f"{what}, length", 512, len(got)
                elif name != "label":
                    position = next(at for at in range(512) if wanted[at] != got[at])
                    what, wanted, got = f"{what}, position {position}", wanted[position], got[position]
                demand(what, wanted, got, hint)
    return "Every review is 512 ids, segments and mask values, and keeps its label."


def _judge_2a(seen: Iterator, expected: dict[str, Any]) -> str:
    models = [next(seen) for _ in range(3)]
    for policy, found in zip(("full", "bitfit", "full"), models, strict=True):
        _judge_model(found, expected["models"][policy], policy, expected["table"])
    _judge_draws(models)
    bitfit, full = (
        sum(facts["numbers"] for facts in expected["models"][policy]["parameters"].values() if facts["trained"])
        for policy in ("bitfit", "full")
    )
    return f"bitfit trains {bitfit:,} of {full:,} parameters, all of them biases."


def _judge_model(found: dict[str, Any], expected: dict[str, Any], policy: str, table: str = "") -> None:
    """The model must be the checkpoint's, with 2 labels, in float32, and train what the policy says."""
    parameters, wanted = found["parameters"], expected["parameters"]
    same = "load the model in each call, with load_classifier(model_name), and leave its parts and values alone."
    parts = [part for part in found["parts"] if not table or table.split(".")[1] not in part]
    _judge_same(found | {"parts": parts}, expected, "init_model's model", same)
    # In 2b init_model is the check's own.
    hint = "without BitFit every parameter is trained." if table else "model_init must pass use_bitfit to init_model."
    if table and policy == "bitfit":
        trained = {name for name, facts in parameters.items() if facts["trained"]}
        hints = (hint for trains, hint in HABITS if trained == set(filter(trains, parameters)))
        hint = next(hints, "train all bias terms, and nothing else.")
    for name, facts in parameters.items():
        what = f"use_bitfit={policy == 'bitfit'}, parameter {name} ({facts['numbers']:,} values)"
        if name == table:
            what += ", an empty tensor that this check adds, named as in T5, where it is not a bias term"
        demand(what, STATES[wanted[name]["trained"]], STATES[facts["trained"]], hint)
    scale = "as drawn" if 0.4 < found["scale"] < 2 else f"{found['scale']:.1f} times that"
    demand("the scale of the classifier's initial weight", "as drawn", scale, same)


def _judge_draws(models: list[dict[str, Any]]) -> None:
    """Every model was built with another seed, so each classifier must have other random weights."""
    drawn = {
        "the classifier's initial weight": {found["parameters"]["classifier.weight"]["values"] for found in models},
        "the next random number, as for dropout,": {found["next"] for found in models},
    }
    hint = "set no seed yourself, and call load_classifier in every call: the course sets each run's own seed."
    for what, draws in drawn.items():
        kind = "different" if len(draws) == len(models) else "the same"
        demand(f"{what} with another seed", "different", kind, hint)


def _judge_same(found: dict[str, Any], wanted: dict[str, Any], whose: str, hint: str) -> None:
    """A model must have the wanted parts and parameters, with the wanted values unless they are random (None)."""
    for right, part in zip_longest(wanted["parts"], found["parts"]):
        demand(f"a part of {whose}", right, part, hint)
    strange = sorted({*found["parameters"]} ^ {*wanted["parameters"]})
    demand(f"missing or extra parameters of {whose}", [], strange, hint)
    for name, facts in wanted["parameters"].items():
        if facts["values"] not in (None, found["parameters"][name]["values"]):
            raise Mistake(f"{whose}: expected load_classifier's values of {name}, found others. Hint: {hint}")


def _judge_2b(seen: Iterator, expected: dict[str, Any]) -> str:
    for policy in ("full", "bitfit"):
        trainer = next(seen)
        _judge_arguments(trainer, expected["arguments"], "the Trainer's ")
        for name, given in (("train_dataset", "train_data"), ("eval_dataset", "val_data")):
            wanted, found, hint = expected[name], trainer[name], f"use {given} unchanged."
            demand(f"rows of the Trainer's {name}", wanted["rows"], found["rows"], hint)
            values = "the same" if wanted["values"] == found["values"] else "other values or another order"
            demand(f"ids, masks and labels of the Trainer's {name}", "the same", values, hint)
        models = [next(seen) for _ in range(2)]
        for found in models:
            _judge_model(found, expected["models"][policy], policy)
        _judge_draws(models)
        _judge_accuracy(seen, expected["labels"], "eval")

    tester, hint = next(seen), "its model must be load_classifier(directory), unchanged; give it no training data."
    for name in ("model_init", "train_dataset"):
        demand(f"the tester's {name}", "none", "there" if name in tester["given"] else "none", hint)
    _judge_arguments(tester, expected["tester"], "the tester's ")
    _judge_same(tester, expected["saved"], "the tester's model", hint)
    _judge_accuracy(seen, expected["labels"], "test")
    overridden = ", ".join(dict.fromkeys(map(str, trainer["overridden"] + tester["overridden"])))
    own = f" The sweep sets these fields itself, whatever you gave: {overridden}." if overridden else ""
    return f"The Trainer measures the accuracy after each of 4 epochs, and the tester has the saved model.{own}"


def _judge_arguments(found: dict[str, Any], wanted: dict[str, Any], whose: str) -> None:
    """The fields must have the wanted values, and no part of a solution may be ignored silently."""
    wrong = [name for name, value in wanted.items() if found["arguments"][name] != value]
    if wrong:
        told = "; ".join(f"{name}: {tell(wanted[name], found['arguments'][name])}" for name in wrong)
        others = ", ".join(name for name in wrong if name not in ASKED)
        hints = ["4 epochs, evaluation after each, nothing saved during training"] if ASKED.keys() & wrong else []
        hints += [f"leave {others} at the default, since all runs have the same recipe"] if others else []
        raise Mistake(f"{whose}TrainingArguments, {told[:300]}. Hint: {'; '.join(hints)[:200]}.")
    if found["left_out"]:
        what, name = found["left_out"][0]
        hint = "leave it out: the course uses only the model_init and compute_metrics of your Trainer."
        raise Mistake(f"{whose}{what}: expected none, found {name}. Hint: {hint}")


def _judge_accuracy(seen: Iterator, labels: list[int], prefix: str) -> None:
    """The next records are the metrics of models that always predict 0, that are right, and that always predict 1."""
    negative = labels.count(0) / len(labels)
    shares = {"always predicts 0": negative, "is always right": 1.0, "always predicts 1": 1 - negative}
    for model, share in shares.items():
        metrics = next(seen)
        others = sorted(name for name in metrics if not name.endswith("epoch"))
        found = metrics.get(f"{prefix}_accuracy", f"only {', '.join(others)}")
        hint = "give the Trainer compute_metrics, whose `accuracy` is the share of correct predictions, one per review."
        close = isinstance(found, (int, float)) and abs(found - share) < 1e-6  # It may be in single precision.
        demand(f"{prefix}_accuracy of a model that {model}", share, share if close else found, hint)


def _judge_2c(seen: Iterator, expected: dict[str, Any]) -> str:
    found = next(seen)
    cells, direction = [tuple(cell) for cell in found["cells"]], found["direction"]
    accuracies = {tuple(cell): accuracy for cell, accuracy in expected["accuracies"]}
    missing = [cell for cell in accuracies if cell not in cells]
    demand("cells that are never tried", [], missing, f"{len(accuracies)} trials, over both lists in full.")
    sign = {"maximize": 1, "minimize": -1}[direction]
    values = {cell: sign * value for cell, value in zip(cells, found["values"], strict=True)}
    hint = "by default, the cell with the lowest objective is the best; the accuracy is called eval_accuracy."
    for worse, better in pairwise(sorted(cells, key=accuracies.get)):
        found = "better" if values[better] > values[worse] else "worse" if values[better] < values[worse] else "as good"
        what = f"direction {direction} and compute_objective: the cell {better}, more accurate than {worse}"
        demand(what, "better", found, hint)
    return f"The search tries each of the {len(cells)} cells once, prunes none, and prefers the most accurate."


JUDGES = {"1d": _judge_1d, "2a": _judge_2a, "2b": _judge_2b, "2c": _judge_2c}
