"""One check for each code problem: a line when the solution is right, else a message that names the mistake.

A check has three parts: `expect` says what is right, `observe` runs the student's functions, and the judges below
compare the two. The judges see plain data only: a grader's judge never shares a process with a student's code.
"""

from collections.abc import Callable, Iterator
from typing import Any

from helpers.settings import OFFLINE

MODEL = str(OFFLINE / "checkpoint")
FUNCTIONS = {
    "1d": ("preprocess_dataset",),
    "2a": ("init_model",),
    "2b": ("init_trainer", "init_tester"),
    "2c": ("hyperparameter_search_settings",),
}
COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "label")
# Of the keys of a search: those that decide it, and those that are allowed but not used.
SEARCH = ("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "sampler", "pruner")
STORAGE = ("storage", "study_name", "load_if_exists")
CHOICES = ["learning_rate", "per_device_train_batch_size"]


class CheckFailed(AssertionError):
    """A solution is not right: the problem, what was expected, what was found, and a hint."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"CheckFailed: {self}"]


def problem_1d(preprocess_dataset: Callable, model: str = MODEL) -> None:
    """Check ids, segments, mask and label of short reviews, then of long ones too."""
    _check("1d", (preprocess_dataset,), str(model))


def problem_2a(init_model: Callable, model: str = MODEL) -> None:
    """Check the weights, and which parameters are trained, with and without BitFit."""
    _check("2a", (init_model,), str(model))


def problem_2b(init_trainer: Callable, init_tester: Callable, model: str = MODEL) -> None:
    """Check the recipe, train a few steps, then test a model saved for the purpose."""
    _check("2b", (init_trainer, init_tester), str(model))


def problem_2c(hyperparameter_search_settings: Callable, model: str = MODEL) -> None:
    """Run the search with a toy whose accuracies are made up, and see which cells it visits and which it calls best."""
    _check("2c", (hyperparameter_search_settings,), str(model))


def _check(problem: str, solutions: tuple[Callable, ...], model: str) -> None:
    from helpers.expect import expect, give_public
    from helpers.observe import observe, quiet_workshop

    with quiet_workshop():
        given = give_public(problem, model)
        expected = expect(problem, given)
        seen = observe(problem, solutions, given)
    try:
        verdict = judge(problem, seen, expected)
    except CheckFailed as failure:
        message = str(failure)
    else:
        print(verdict)
        return
    raise CheckFailed(message)


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
    hint = "call the tokenizer with padding='max_length', truncation=True and max_length=512, and keep the label."
    for reviews in expected["reviews"]:
        texts = reviews["text"]
        _expect_kind("Dataset", next(seen), "preprocess_dataset")
        found = next(seen)
        _expect("number of reviews", len(texts), found["rows"], "one row a review, neither more nor fewer.")
        for name in COLUMNS:
            _expect(f"column {name}", "there", "there" if name in found["columns"] else "missing", hint)
            for row, (wanted, got) in enumerate(zip(reviews[name], found["columns"][name], strict=True)):
                what = f"{name} of review {row} ({texts[row][:20]}...)"
                if name != "label":
                    _expect(f"{what}, length", 512, len(got), hint)
                    position = next((at for at in range(512) if wanted[at] != got[at]), 0)
                    what, wanted, got = f"{what}, position {position}", wanted[position], got[position]
                _expect(what, wanted, got, hint)
    seen.end()
    return "Every review is 512 ids, segments and mask values, and keeps its label."


def _judge_2a(seen: _Records, expected: dict[str, Any]) -> str:
    for use_bitfit in (False, True, False):
        _judge_model(seen, expected["parameters"], use_bitfit)
    _judge_model(seen, expected["parameters"], True, expected["table"])
    seen.end()
    numbers = {policy: _count(expected["parameters"], policy) for policy in ("bitfit", "full")}
    return f"bitfit trains {numbers['bitfit']:,} of {numbers['full']:,} parameters, all of them biases."


def _judge_2b(seen: _Records, expected: dict[str, Any]) -> str:
    labels = expected["labels"]
    for use_bitfit in (False, True):
        trainer = next(seen)
        _expect_kind("Trainer", trainer, "init_trainer")
        hint = "give the Trainer model_init=..., not model=...: every trial must start afresh."
        _expect("the Trainer's model_init", "there", "there" if trainer["model_init"] else "missing", hint)
        built = next(seen)
        for name, wanted in expected["recipe"].items():
            hint = "4 epochs, measured after each; the rest stays as it is."
            _expect(f"TrainingArguments, {name}", wanted, built["arguments"][name], hint)
        optimizer = built["optimizer"].removesuffix("_fused")
        _expect("TrainingArguments, optim", "adamw_torch", optimizer, "leave it as it is.")
        for name in ("train", "eval"):
            hint = "train_data and val_data, as they are."
            _expect(f"rows of the Trainer's {name}_dataset", len(labels[name]), built[name], hint)
        for _ in range(2):
            _judge_model(seen, expected["parameters"], use_bitfit)
        _judge_accuracy(seen, labels["eval"], "eval")
    trained = next(seen)
    hint = "num_train_epochs=4, eval_strategy='epoch'."
    _expect("validation accuracy after epochs", [1, 2, 3, 4], trained["measured"], hint)
    _judge_policy(trained["parameters"], expected["parameters"], True)

    tester = next(seen)
    _expect_kind("Trainer", tester, "init_tester")
    hint = "load the model from `directory`, give it as model=..., and do not train it."
    _expect("the tester's model_init", "none", "there" if tester["model_init"] else "none", hint)
    _expect("the tester's training data", "none", "there" if tester["train"] else "none", hint)
    loaded = next(seen)
    _expect("the tester's do_train", False, loaded["do_train"], hint)
    _judge_values(loaded["parameters"], expected["saved"], "", "the tester's model", hint)
    _judge_accuracy(seen, labels["eval"], "test")
    seen.end()
    return "The Trainer measures the accuracy after each of 4 epochs, and the tester has the saved model."


def _judge_2c(seen: _Records, expected: dict[str, Any]) -> str:
    _expect_kind("dict", next(seen), "hyperparameter_search_settings")
    keys = next(seen)["keys"]
    extra = sorted(set(keys) - {*SEARCH, *STORAGE})
    _expect("other keys", [], extra, f"the course's search needs none but {', '.join(SEARCH)}.")
    _expect("key hp_space", "there", "there" if "hp_space" in keys else "missing", "a function of the trial.")

    accuracies = {tuple(cell): accuracy for cell, accuracy in expected["accuracies"]}
    cells = []
    for trial in next(seen)["trials"]:
        hint = "every cell is trained to its end; Optuna's default stops some early."
        _expect("pruner", "NopPruner", trial["pruner"], hint)
        _expect_kind("dict", trial, "hp_space")
        chosen = trial["chosen"]
        _expect("what hp_space returns", CHOICES, sorted(chosen), "a dict with just these names.")
        for name in CHOICES:
            if chosen[name] not in expected[name]:
                allowed = ", ".join(map(str, expected[name]))
                raise CheckFailed(
                    f"{name}: expected one of {allowed}, found {chosen[name]}. Hint: suggest_categorical."
                )
        cell = tuple(chosen[name] for name in CHOICES)
        if cell in cells:
            raise CheckFailed(f"the cell {cell}: expected once, found twice. Hint: GridSampler repeats none.")
        cells.append(cell)
    seen.end()
    missing = [cell for cell in accuracies if cell not in cells]
    _expect("cells that are never tried", [], missing, "n_trials=20 and a GridSampler over both lists.")
    study = next(seen)
    sign = {"maximize": 1, "minimize": -1}[study["direction"]]
    values = dict(zip(cells, study["values"], strict=True))
    rising = [sign * values[cell] for cell in sorted(cells, key=accuracies.get)]
    if rising != sorted(set(rising)):
        best, wanted = cells[study["best"]], max(cells, key=accuracies.get)
        raise CheckFailed(
            f"direction {study['direction']} and compute_objective: expected the cells in the order of their"
            f" accuracy, {wanted} best; found another order, {best} best. Hint: maximise metrics['eval_accuracy']."
        )
    return f"The search tries each of the {len(cells)} cells once, prunes none, and prefers the most accurate."


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
    _expect(f"what {function} returns", wanted, record["kind"], "mind the `return`.")


def _judge_model(seen: _Records, wanted: dict, use_bitfit: bool, added: dict | None = None) -> None:
    """The model must be the checkpoint's under 2 labels, in float32, and train what the policy says."""
    _expect_kind("BertForSequenceClassification", next(seen), "init_model")
    found = next(seen)
    hint = "call load_classifier(model_name) each time anew."
    _expect("number of labels", 2, found["labels"], hint)
    _expect("number type", "torch.float32", found["dtype"], hint)
    _judge_values(found["parameters"], wanted, "bert.", "init_model's model", hint)
    _judge_policy(found["parameters"], wanted | (added or {}), use_bitfit)


def _judge_values(found: dict, wanted: dict, prefix: str, whose: str, hint: str) -> None:
    for name, facts in wanted.items():
        if name.startswith(prefix) and found.get(name, {}).get("values") != facts["values"]:
            raise CheckFailed(f"{whose}: expected the saved values of {name}, found others. Hint: {hint}")


def _judge_policy(found: dict, wanted: dict, use_bitfit: bool) -> None:
    hint = (
        "a bias term's name ends in '.bias'; all else is frozen, the classifier's random weight too."
        if use_bitfit
        else "without BitFit every parameter is trained."
    )
    strange = sorted(set(found) ^ set(wanted))
    _expect("parameters that are missing or too many", [], strange, "change no layer of the classifier.")
    for name, facts in found.items():
        states = {True: "trained", False: "frozen"}
        expected, got = states[wanted[name]["bitfit" if use_bitfit else "full"]], states[facts["trained"]]
        _expect(f"use_bitfit={use_bitfit}, parameter {name} ({facts['numbers']:,} numbers)", expected, got, hint)


def _judge_accuracy(seen: _Records, labels: list[int], prefix: str) -> None:
    """Seen are the metrics of a model that always predicts 0, then of one that always predicts 1."""
    for label in (0, 1):
        metrics = next(seen)["metrics"]
        hint = "compute_metrics returns {'accuracy': the share of reviews whose larger logit is their label}."
        others = sorted(name for name in metrics if not name.endswith("epoch"))
        found = metrics.get(f"{prefix}_accuracy", f"only {', '.join(others)}")
        share = labels.count(label) / len(labels)
        _expect(f"{prefix}_accuracy of a model that always predicts {label}", share, found, hint)


def _count(parameters: dict[str, dict[str, Any]], policy: str) -> int:
    return sum(facts["numbers"] for facts in parameters.values() if facts[policy])
