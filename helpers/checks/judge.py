"""One judge for each code problem, which names the mistake.

A check has three parts: `inputs.expect` says what is right, `observe` runs the student's functions, and the judges
compare the two. The judges see plain data only: a grader's judge never shares a process with a student's code.
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from helpers.recipe import CHOICES, COLUMNS, HARMLESS, SEARCH, UNSET

# What is often trained in place of the bias terms: a name's test, and the hint.
HABITS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda name: True, "nothing was frozen: the attribute is requires_grad, and belongs to each parameter."),
    (lambda name: False, "everything was frozen: thaw what BitFit trains."),
    (lambda name: not name.endswith(".bias"), "the condition is the wrong way round."),
    (lambda name: "bias" in name, "look at how the name ends, not for 'bias' anywhere in it."),
    (lambda name: name.endswith(".bias") or "LayerNorm" in name, "LayerNorm's weights have one dimension, too."),
    (lambda name: name.endswith(".bias") or "classifier" in name, "here the classifier's random weight stays frozen."),
)


class CheckFailed(AssertionError):
    """A solution is not right: the problem, what was expected, what was found, and a hint."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"CheckFailed: {self}"]


def judge(problem: str, seen: dict[str, Any], expected: dict[str, Any]) -> str:
    """Compare what was seen of a solution with what is right; returns the praise or raises CheckFailed.

    `seen` may come from a process that is not to be trusted: whatever is wrong with its form raises some exception.
    """
    try:
        return f"Problem {problem}: correct. {JUDGES[problem](_Records(seen), expected)}"
    except CheckFailed as failure:
        raise CheckFailed(f"Problem {problem}: {failure}") from None


class _Records(Iterator):
    """What was seen, record by record; where it ends too soon, the reason is the failure."""

    def __init__(self, seen: dict[str, Any]):
        self.records, self.stopped = iter(seen["records"]), seen["stopped"]

    def __next__(self) -> dict[str, Any]:
        for record in self.records:
            return record
        raise CheckFailed(self.stopped or "nothing more was seen of it.")

    def end(self) -> None:
        if self.stopped is not None:
            raise CheckFailed(self.stopped)


def _judge_1d(seen: _Records, expected: dict[str, Any]) -> str:
    for reviews, slips in zip(expected["reviews"], expected["slips"], strict=True):
        _expect_kind("Dataset", next(seen), "preprocess_dataset")
        found = next(seen)
        texts, columns = reviews["text"], found["columns"]
        _expect("number of reviews", len(texts), found["rows"], "one row a review, neither more nor fewer.")
        if columns is None:
            hint = "the data set came back unchanged: `map` gives back a new one, made of what its function returns."
            raise CheckFailed(f"{found['problem']} Hint: {hint if found['unchanged'] else HINTS[found['column']]}")
        lengths, tokens = [*map(len, columns["input_ids"])], [*map(sum, reviews["attention_mask"])]
        for row, length in enumerate(lengths):
            what = f"input_ids of review {row} ({texts[row][:20]}...), length"
            _expect(what, 512, length, _explain_length(length, tokens[row], max(lengths), max(tokens)))
        for name in COLUMNS:
            for row, (wanted, got) in enumerate(zip(reviews[name], columns[name], strict=True)):
                if wanted == got:
                    continue
                hint = next((slip["hint"] for slip in slips if slip[name][row] == got), HINTS[name])
                what = f"{name} of review {row} ({texts[row][:20]}...)"
                if name != "label":
                    position = next(at for at in range(512) if wanted[at] != got[at])
                    what, wanted, got = f"{what}, position {position}", wanted[position], got[position]
                _expect(what, wanted, got, hint)
    seen.end()
    return "Every review is 512 ids, segments and mask values, and keeps its label."


HINTS = {
    "input_ids": "they are the tokenizer's, for the text as it is.",
    "token_type_ids": "the tokenizer gives them, too, all for one sentence.",
    "attention_mask": "the tokenizer gives it, too: 1 for a token, 0 for padding.",
    "label": "rows keep their label, and its name and value, whatever their format or transform.",
}


def _explain_length(length: int, tokens: int, longest: int, most: int) -> str:
    """Why a review has not 512 ids but `length`, for its `tokens`; the data set has up to `longest`, for `most`."""
    if longest > 512:
        return "longer reviews are cut: that is called truncation, and has a length of its own."
    if length == tokens:
        return "shorter reviews are filled up: that is called padding, and does not happen by itself."
    if tokens > length or longest != most:
        return "that is one length for all, perhaps, but not the 512 tokens that BERT reads."
    return "that pads to the longest of the texts that are tokenised together: pad to the same length everywhere."


def _judge_2a(seen: _Records, expected: dict[str, Any]) -> str:
    for use_bitfit in (False, True, False):
        _judge_model(seen, expected["parameters"], use_bitfit)
    _judge_model(seen, expected["parameters"], True, expected["table"])
    seen.end()
    numbers = {policy: _count(expected["parameters"], policy) for policy in ("bitfit", "full")}
    return f"bitfit trains {numbers['bitfit']:,} of {numbers['full']:,} parameters, all of them biases."


def _judge_2b(seen: _Records, expected: dict[str, Any]) -> str:
    overridden: list[str] = []
    for use_bitfit in (False, True):
        trainer = next(seen)
        _expect_kind("Trainer", trainer, "init_trainer")
        hint = "a Trainer with model=... cannot start afresh, as every run of a search must."
        _expect("the Trainer's model_init", "there", "there" if trainer["model_init"] else "missing", hint)
        built = next(seen)
        _judge_arguments(built["arguments"], expected["arguments"])
        _judge_unset(built)
        for name in ("train", "eval"):
            wanted, got = expected["data"][name], built["data"][name]
            hint = f"it is {'train_data' if name == 'train' else 'val_data'}, as it is."
            _expect(f"rows of the Trainer's {name}_dataset", wanted["rows"], got["rows"], hint)
            changed = "the same" if wanted["values"] == got["values"] else "other values or another order"
            _expect(f"ids, masks and labels of the Trainer's {name}_dataset", "the same", changed, hint)
        overridden = built["overridden"]
        for _ in range(2):
            _judge_model(seen, expected["parameters"], use_bitfit)
        _judge_accuracy(seen, expected["labels"], "eval")

    tester = next(seen)
    _expect_kind("Trainer", tester, "init_tester")
    hint = "the tester has the model that is saved in `directory`, and nothing to train."
    _expect("the tester's model_init", "none", "there" if tester["model_init"] else "none", hint)
    _expect("the tester's training data", "none", "there" if tester["train"] else "none", hint)
    loaded = next(seen)
    _judge_arguments(loaded["arguments"], expected["tester"], "the tester's ")
    _judge_unset(loaded, "the tester's ")
    _judge_values(loaded["parameters"], expected["saved"], "", "the tester's model", hint)
    _judge_accuracy(seen, expected["labels"], "test")
    seen.end()
    own = f" The sweep sets by itself, whatever you gave: {', '.join(map(str, overridden))}." if overridden else ""
    return f"The Trainer measures the accuracy after each of 4 epochs, and the tester has the saved model.{own}"


def _judge_arguments(found: dict[str, Any], wanted: dict[str, Any], whose: str = "") -> None:
    wrong = [name for name, value in wanted.items() if found[name] != value]
    if wrong:
        told = "; ".join(f"{name}: expected {wanted[name]}, found {found[name]}" for name in wrong)
        asked = [name for name in wrong if name in ("num_train_epochs", "eval_strategy", "save_strategy")]
        others = [name for name in wrong if name not in asked]
        hints = ["4 epochs, measured after each, nothing saved on the way"] if asked else []
        hints += [f"leave {', '.join(others)} as it is, for everybody's runs have the same recipe"] if others else []
        raise CheckFailed(f"{whose}TrainingArguments, {told[:300]}. Hint: {'; '.join(hints)[:200]}.")


def _judge_unset(found: dict[str, Any], whose: str = "the Trainer's ") -> None:
    """What training would leave out must not be there: then nothing of a solution is dropped in silence."""
    hint = "leave it out: the course trains with your model_init and compute_metrics, and nothing else of the Trainer."
    for name in (*UNSET, "own methods"):
        _expect(f"{whose}{name}", "none", found["unset"][name], hint)


def _judge_2c(seen: _Records, expected: dict[str, Any]) -> str:
    _expect_kind("dict", next(seen), "hyperparameter_search_settings")
    _judge_keys(next(seen)["keys"])
    accuracies = {tuple(cell): accuracy for cell, accuracy in expected["accuracies"]}
    cells = []
    for trial in next(seen)["trials"]:
        hint = "this pruner can stop a cell half-way; every cell is trained to its end."
        _expect("pruner", "NopPruner", trial["pruner"], hint)
        _expect_kind("dict", trial, "hp_space")
        chosen = trial["chosen"]
        _expect("what hp_space returns", CHOICES, sorted(chosen), "a dict with just these names.")
        for name in CHOICES:
            if chosen[name] not in expected[name]:
                allowed = ", ".join(map(str, expected[name]))
                hint = "ask the trial for one of a list."
                raise CheckFailed(f"{name}: expected one of {allowed}, found {chosen[name]}. Hint: {hint}")
        cell = tuple(chosen[name] for name in CHOICES)
        if cell in cells:
            hint = "the sampler draws cells again; one for grids does not."
            raise CheckFailed(f"the cell {cell}: expected once, found twice. Hint: {hint}")
        cells.append(cell)
    seen.end()
    missing = [cell for cell in accuracies if cell not in cells]
    _expect("cells that are never tried", [], missing, f"{len(accuracies)} trials, over both lists in full.")
    study = next(seen)
    sign = {"maximize": 1, "minimize": -1}[study["direction"]]
    values = dict(zip(cells, study["values"], strict=True))
    rising = [sign * values[cell] for cell in sorted(cells, key=accuracies.get)]
    if rising != sorted(set(rising)):
        best, wanted = cells[study["best"]], max(cells, key=accuracies.get)
        raise CheckFailed(
            f"direction {study['direction']} and compute_objective: expected the cells in the order of their"
            f" accuracy, {wanted} best; found another order, {best} best. Hint: the search calls the cell best whose"
            " objective is the lowest, unless it is told otherwise; the accuracy is called eval_accuracy."
        )
    return f"The search tries each of the {len(cells)} cells once, prunes none, and prefers the most accurate."


def _judge_keys(keys: dict[str, dict[str, Any]]) -> None:
    """Every key of a search decides it, or is harmless with the value it has, or is refused by name."""
    for name, found in keys.items():
        if name not in SEARCH and name not in HARMLESS:
            near = difflib.get_close_matches(name, [*SEARCH, *HARMLESS], 1)
            hint = f"do you mean {near[0]}?" if near else f"the search needs none but {', '.join(SEARCH)}."
            raise CheckFailed(f"key {name}: expected no such key, found it. Hint: {hint}")
        if HARMLESS.get(name) is not None and found["value"] not in HARMLESS[name]:
            hint = "leave it out: every cell is trained to its end, one after the other."
            _expect(f"key {name}", HARMLESS[name][0], found["value"], hint)
    _expect("key hp_space", "there", "there" if "hp_space" in keys else "missing", "a function of the trial.")
    for name in ("hp_space", "compute_objective", "hp_name"):
        if name == "hp_space" or keys.get(name, {"value": None})["value"] is not None:
            hint = "the search calls it for each trial: give it the function, not what the function returns."
            _expect(f"key {name}", "a function", keys[name]["kind"], hint)
    for name in ("pruner", "sampler"):
        if name in keys and keys[name]["kind"].startswith("the class"):
            _expect(f"key {name}", "an object", keys[name]["kind"], "a class becomes an object by ().")


JUDGES: dict[str, Callable[[_Records, dict[str, Any]], str]] = {
    "1d": _judge_1d,
    "2a": _judge_2a,
    "2b": _judge_2b,
    "2c": _judge_2c,
}


def _expect(what: str, expected: Any, found: Any, hint: str) -> None:
    if expected != found:
        raise CheckFailed(f"{what}: expected {expected}, found {found}. Hint: {hint}")


def _expect_kind(wanted: str, record: dict[str, Any], function: str) -> None:
    hint = "mind the `return`." if record["kind"] == "NoneType" else f"the whole result, a {wanted}, is returned."
    _expect(f"what {function} returns", wanted, record["kind"], hint)


def _judge_model(seen: _Records, wanted: dict, use_bitfit: bool, added: dict | None = None) -> None:
    """The model must be the checkpoint's under 2 labels, in float32, and train what the policy says."""
    _expect_kind("BertForSequenceClassification", next(seen), "init_model")
    found = next(seen)
    hint = "call load_classifier(model_name) each time anew."
    _expect("number of labels", 2, found["labels"], hint)
    _expect("number type", "torch.float32", found["dtype"], hint)
    _judge_values(found["parameters"], wanted, "bert.", "init_model's model", hint)
    _judge_policy(found["parameters"], wanted, use_bitfit, added or {})


def _judge_values(found: dict, wanted: dict, prefix: str, whose: str, hint: str) -> None:
    for name, facts in wanted.items():
        if name.startswith(prefix) and found.get(name, {}).get("values") != facts["values"]:
            raise CheckFailed(f"{whose}: expected the saved values of {name}, found others. Hint: {hint}")


def _judge_policy(found: dict, wanted: dict, use_bitfit: bool, added: dict) -> None:
    strange = sorted(set(found) ^ set(wanted | added))
    _expect("parameters that are missing or too many", [], strange, "change no layer of the classifier.")
    hint = "without BitFit every parameter is trained."
    if use_bitfit:
        trained = {name for name, facts in found.items() if facts["trained"]}
        hints = (hint for trains, hint in HABITS if trained == set(filter(trains, found)))
        hint = next(hints, "the bias terms are trained, all of them, and nothing else.")
    for name, facts in found.items():
        states = {True: "trained", False: "frozen"}
        expected = states[(wanted | added)[name]["bitfit" if use_bitfit else "full"]]
        what = f"use_bitfit={use_bitfit}, parameter {name} ({facts['numbers']:,} numbers)"
        if name in added:
            what += ", a tensor that this check adds, under the name it has in T5, where it is no bias term"
        _expect(what, expected, states[facts["trained"]], hint)


def _judge_accuracy(seen: _Records, labels: list[int], prefix: str) -> None:
    """Seen are the metrics of a model that always predicts 0, then of one that always predicts 1."""
    for label in (0, 1):
        metrics = next(seen)["metrics"]
        for name, value in metrics.items():
            if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
                raise CheckFailed(f"{name}: expected a number, found {value}. Hint: the Trainer logs numbers alone.")
        others = sorted(name for name in metrics if not name.endswith("epoch"))
        found = metrics.get(f"{prefix}_accuracy", f"only {', '.join(others)}")
        hint = "give the Trainer compute_metrics, whose `accuracy` is the share of reviews that are right."
        share = labels.count(label) / len(labels)
        _expect(f"{prefix}_accuracy of a model that always predicts {label}", share, found, hint)


def _count(parameters: dict[str, dict[str, Any]], policy: str) -> int:
    return sum(facts["numbers"] for facts in parameters.values() if facts[policy])
