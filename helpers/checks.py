"""One check for each code problem: a line when the solution is right, else a message that names the mistake."""

import dataclasses
import functools
import gc
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from helpers.models import POLICIES, count_parameters, load_classifier, load_tokenizer, quiet_library
from helpers.settings import OFFLINE, Settings

MODEL = str(OFFLINE / "checkpoint")
SHORT = ["A quiet, honest film.", "Dull!<br />I left early.", "Not bad at all, but far from unforgettable."]
LONG = ["It begins well, and then it goes on, and on, and on. " * 60, "Good. " * 300]
# What decides how a cell is trained, apart from the search's choices, stays at the Trainer's defaults.
DEFAULTS = (
    *("eval_delay", "max_steps", "weight_decay", "warmup_steps", "lr_scheduler_type", "gradient_accumulation_steps"),
    *("label_smoothing_factor", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "neftune_noise_alpha"),
)
RECIPE = {"num_train_epochs": 4, "eval_strategy": "epoch"} | {
    field.name: field.default for field in dataclasses.fields(TrainingArguments) if field.name in DEFAULTS
}
SEARCH = ("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "sampler", "pruner")
# Allowed, but not used: the check's own search must not be mixed with the student's.
STORAGE = ("storage", "study_name", "load_if_exists")


class CheckFailed(AssertionError):
    """A solution is not right: the problem, what was expected, what was found, and a hint."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"CheckFailed: {self}"]


def _check(problem: str) -> Callable:
    """Make a check print its verdict, and turn whatever goes wrong in it into one `CheckFailed`."""

    def decorate(check: Callable[..., str]) -> Callable[..., None]:
        @functools.wraps(check)
        def run(*solutions: Callable, model: str = MODEL) -> None:
            try:
                with _quiet_workshop():
                    verdict = check(*solutions, model=str(model))
            except CheckFailed as failure:
                message = str(failure)
            except Exception as error:
                message = _describe(error, solutions)
            else:
                print(f"Problem {problem}: correct. {verdict}")
                return
            raise CheckFailed(f"Problem {problem}: {message}")

        return run

    return decorate


@_check("1d")
def problem_1d(preprocess_dataset: Callable, model: str = MODEL) -> str:
    """Check ids, segments, mask and label of short reviews, then of long ones too."""
    hint = "call the tokenizer with padding='max_length', truncation=True and max_length=512, and keep the label."
    tokenizer = load_tokenizer(model)
    # Short reviews alone tell padding to 512 from padding to the longest.
    for texts in (SHORT, SHORT + LONG):
        reviews = Dataset.from_dict({"text": texts, "label": [index % 2 for index in range(len(texts))]})
        expected = dict(tokenizer(texts, padding="max_length", truncation=True, max_length=512))
        found = preprocess_dataset(reviews, tokenizer)
        _expect_kind(found, Dataset, "preprocess_dataset")
        _expect("number of reviews", len(texts), len(found), "one row a review, neither more nor fewer.")
        for name, rows in (expected | {"label": reviews["label"]}).items():
            _expect(f"column {name}", "there", "there" if name in found.column_names else "missing", hint)
            for row, (wanted, got) in enumerate(zip(rows, found.with_format(None)[name], strict=True)):
                what = f"{name} of review {row} ({texts[row][:20]}...)"
                if name != "label":
                    _expect(f"{what}, length", 512, len(got), hint)
                    position = next((at for at in range(512) if wanted[at] != got[at]), 0)
                    what, wanted, got = f"{what}, position {position}", wanted[position], got[position]
                _expect(what, wanted, got, hint)
    return "Every review is 512 ids, segments and mask values, and keeps its label."


@_check("2a")
def problem_2a(init_model: Callable, model: str = MODEL) -> str:
    """Check the weights, and which parameters are trained, with and without BitFit."""
    for use_bitfit in (False, True, False):
        classifier = init_model(None, model, use_bitfit=True) if use_bitfit else init_model(None, model)
        _expect_model(classifier, model, use_bitfit)
        if use_bitfit:
            trained, everything = count_parameters(classifier), count_parameters(classifier, trainable_only=False)
    with _table_called_bias():
        _expect_policy(init_model(None, model, use_bitfit=True), use_bitfit=True)
    return f"bitfit trains {trained:,} of {everything:,} parameters, all of them biases."


@_check("2b")
def problem_2b(init_trainer: Callable, init_tester: Callable, model: str = MODEL) -> str:
    """Check the recipe, train a few steps, then test a model saved for the purpose."""
    train, val = _tokenised(model, 16), _tokenised(model, 8)
    for use_bitfit in (False, True):
        trainer = init_trainer(model, train, val, use_bitfit=True) if use_bitfit else init_trainer(model, train, val)
        _expect_trainer(trainer, train, val)
        for _ in range(2):
            _expect_model(trainer.call_model_init(), model, use_bitfit)
        _expect_accuracy(trainer, val, "eval")
    trainer.train()
    measured = [round(entry["epoch"], 2) for entry in trainer.state.log_history if "eval_accuracy" in entry]
    _expect("validation accuracy after epochs", [1, 2, 3, 4], measured, "num_train_epochs=4, eval_strategy='epoch'.")
    _expect_policy(trainer.model, use_bitfit=True)

    saved = load_classifier(model)
    torch.nn.init.normal_(saved.bert.pooler.dense.bias)
    saved.save_pretrained("fine-tuned")
    tester = init_tester(os.path.abspath("fine-tuned"))
    _expect_kind(tester, Trainer, "init_tester")
    hint = "load the model from `directory`, give it as model=..., and do not train it."
    _expect("the tester's model_init", "none", "none" if tester.model_init is None else "there", hint)
    _expect("the tester's training data", "none", "none" if tester.train_dataset is None else "there", hint)
    _expect("the tester's do_train", False, tester.args.do_train, hint)
    _expect_same(tester.model, saved, lambda name: True, "the tester's model", hint)
    _expect_accuracy(tester, val, "test")
    return "The Trainer measures the accuracy after each of 4 epochs, and the tester has the saved model."


@_check("2c")
def problem_2c(hyperparameter_search_settings: Callable, model: str = MODEL) -> str:
    """Run the search with a toy whose accuracies are made up, and see which cells it visits and which it calls best."""
    search = hyperparameter_search_settings()
    _expect_kind(search, dict, "hyperparameter_search_settings")
    extra = sorted(set(search) - {*SEARCH, *STORAGE})
    _expect("other keys", [], extra, f"the course's search needs none but {', '.join(SEARCH)}.")
    _expect("key hp_space", "there", "there" if "hp_space" in search else "missing", "a function of the trial.")

    grid = Settings().cells
    accuracies = {cell: 0.5 + 0.02 * (7 * index % len(grid)) for index, cell in enumerate(grid)}
    cells, studies = [], []

    def watched_space(trial: optuna.Trial) -> dict[str, Any]:
        pruner = type(trial.study.pruner).__name__
        _expect("pruner", "NopPruner", pruner, "every cell is trained to its end; Optuna's default stops some early.")
        chosen = search["hp_space"](trial)
        _expect_kind(chosen, dict, "hp_space")
        names = ["learning_rate", "per_device_train_batch_size"]
        _expect("what hp_space returns", names, sorted(chosen), "a dict with just these names.")
        for name, allowed in zip(names, (Settings().learning_rates, Settings().batch_sizes), strict=True):
            if chosen[name] not in allowed:
                raise CheckFailed(
                    f"{name}: expected one of {allowed}, found {chosen[name]}. Hint: suggest_categorical."
                )
        cell = tuple(chosen[name] for name in names)
        if cell in cells:
            raise CheckFailed(f"the cell {cell}: expected once, found twice. Hint: GridSampler repeats none.")
        cells.append(cell)
        studies.append(trial.study)
        return chosen

    toy = Trainer(
        model_init=_Toy,
        args=TrainingArguments("toy", num_train_epochs=1, eval_strategy="epoch", save_strategy="no", report_to="none"),
        train_dataset=[{"labels": 0}],
        eval_dataset=[{"labels": 0}],
        compute_metrics=lambda predictions: {"accuracy": accuracies[cells[-1]]},
    )
    _mute(toy)
    rehearsed = {name: value for name, value in search.items() if name in SEARCH} | {"hp_space": watched_space}
    toy.hyperparameter_search(**rehearsed)
    missing = [cell for cell in grid if cell not in cells]
    _expect("cells that are never tried", [], missing, "n_trials=20 and a GridSampler over both lists.")
    study = studies[0]
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    rising = [sign * study.trials[cells.index(cell)].value for cell in sorted(cells, key=accuracies.get)]
    if rising != sorted(set(rising)):
        best, wanted = cells[study.best_trial.number], max(cells, key=accuracies.get)
        raise CheckFailed(
            f"direction {study.direction.name.lower()} and compute_objective: expected the cells in the order of their"
            f" accuracy, {wanted} best; found another order, {best} best. Hint: maximise metrics['eval_accuracy']."
        )
    return f"The search tries each of the {len(cells)} cells once, prunes none, and prefers the most accurate."


def _expect(what: str, expected: Any, found: Any, hint: str) -> None:
    if expected != found:
        raise CheckFailed(f"{what}: expected {expected}, found {found}. Hint: {hint}")


def _expect_kind(found: Any, kind: type, function: str) -> None:
    if not isinstance(found, kind):
        _expect(f"what {function} returns", kind.__name__, type(found).__name__, "mind the `return`.")


def _expect_same(found: torch.nn.Module, wanted: torch.nn.Module, which: Callable, whose: str, hint: str) -> None:
    parameters = dict(found.named_parameters())
    for name, parameter in wanted.named_parameters():
        if which(name) and (name not in parameters or not torch.equal(parameters[name].cpu(), parameter)):
            raise CheckFailed(f"{whose}: expected the saved values of {name}, found others. Hint: {hint}")


def _expect_model(classifier: BertForSequenceClassification, model: str, use_bitfit: bool) -> None:
    """The model must be the checkpoint's under 2 labels, in float32; it is spoilt then, so the next must be fresh."""
    _expect_kind(classifier, BertForSequenceClassification, "init_model")
    hint = "call load_classifier(model_name) each time anew."
    _expect("number of labels", 2, classifier.config.num_labels, hint)
    _expect("number type", torch.float32, classifier.dtype, hint)
    encoder = load_classifier(model)
    _expect_same(classifier, encoder, lambda name: name.startswith("bert."), "init_model's model", hint)
    _expect_policy(classifier, use_bitfit)
    for parameter in classifier.parameters():
        torch.nn.init.zeros_(parameter)


def _expect_policy(classifier: torch.nn.Module, use_bitfit: bool) -> None:
    policy = "bitfit" if use_bitfit else "full"
    hint = (
        "a bias term's name ends in '.bias'; all else is frozen, the classifier's random weight too."
        if use_bitfit
        else "without BitFit every parameter is trained."
    )
    for name, parameter in classifier.named_parameters():
        wanted, got = (
            "trained" if trains else "frozen" for trains in (POLICIES[policy](name), parameter.requires_grad)
        )
        _expect(f"use_bitfit={use_bitfit}, parameter {name} ({parameter.numel():,} numbers)", wanted, got, hint)


def _expect_trainer(trainer: Trainer, train: Dataset, val: Dataset) -> None:
    _expect_kind(trainer, Trainer, "init_trainer")
    hint = "give the Trainer model_init=..., not model=...: every trial must start afresh."
    _expect("the Trainer's model_init", "there", "missing" if trainer.model_init is None else "there", hint)
    for name, wanted in RECIPE.items():
        got = getattr(trainer.args, name)
        got = getattr(got, "value", got)
        _expect(f"TrainingArguments, {name}", wanted, got, "4 epochs, measured after each; the rest stays as it is.")
    optimizer = str(trainer.args.optim.value).removesuffix("_fused")
    _expect("TrainingArguments, optim", "adamw_torch", optimizer, "leave it as it is.")
    for name, wanted, got in (("train", train, trainer.train_dataset), ("eval", val, trainer.eval_dataset)):
        rows = len(got) if got is not None else 0
        _expect(f"rows of the Trainer's {name}_dataset", len(wanted), rows, "train_data and val_data, as they are.")


def _expect_accuracy(trainer: Trainer, rows: Dataset, prefix: str) -> None:
    """Two classifiers that always say the same tell the accuracy from every other metric."""
    _mute(trainer)
    for label in (0, 1):
        _always_predict(label, trainer.model)
        metrics = trainer.predict(rows).metrics if prefix == "test" else trainer.evaluate()
        hint = "compute_metrics returns {'accuracy': the share of reviews whose larger logit is their label}."
        others = sorted(name for name in metrics if not name.endswith(("epoch", "time", "second")))
        found = metrics.get(f"{prefix}_accuracy", f"only {', '.join(others)}")
        share = rows["label"][:].count(label) / len(rows)
        _expect(f"{prefix}_accuracy of a model that always predicts {label}", share, found, hint)


def _always_predict(label: int, classifier: torch.nn.Module) -> None:
    with torch.no_grad():
        classifier.classifier.weight.zero_()
        classifier.classifier.bias.copy_(torch.tensor([1.0 - label, label]))


def _tokenised(model: str, count: int) -> Dataset:
    """What `preprocess_dataset` returns, but with 16 ids a review; five in eight are positive."""
    rows = {"text": (SHORT * count)[:count], "label": [int(index % 8 < 5) for index in range(count)]}
    ids = load_tokenizer(model)(rows["text"], padding="max_length", truncation=True, max_length=16)
    return Dataset.from_dict(rows | dict(ids))


def _mute(trainer: Trainer) -> None:
    for callback in list(trainer.callback_handler.callbacks):
        if "Progress" in type(callback).__name__ or "Printer" in type(callback).__name__:
            trainer.remove_callback(callback)


def _describe(error: Exception, solutions: tuple[Callable, ...]) -> str:
    """Name the line of the student's file where it happened, if it was there."""
    files = {solution.__code__.co_filename for solution in solutions if hasattr(solution, "__code__")}
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in files]
    if isinstance(error, NotImplementedError) and frames[-1] in own:
        return f"{own[-1].name} is not solved yet."
    where = ""
    if own:
        place = "its cell" if "ipykernel" in own[-1].filename else os.path.basename(own[-1].filename)
        where = f" in {own[-1].name}, line {own[-1].lineno} of {place},"
    reason = next(iter(str(error).splitlines()), "")[:300]
    return f"expected to run through, but it stopped{where} with {type(error).__name__}: {reason}"


class _Toy(torch.nn.Module):
    """The least that a Trainer can train; its loss never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * 0 + 1).sum(), "logits": torch.zeros(len(labels), 2)}


@contextmanager
def _table_called_bias() -> Iterator[None]:
    """Every classifier built meanwhile has a table with T5's name for it: it is called bias, and is no bias term."""
    build = BertForSequenceClassification.__init__

    @functools.wraps(build)
    def build_with_table(self, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.relative_attention_bias = torch.nn.Embedding(4, 2)

    BertForSequenceClassification.__init__ = build_with_table
    try:
        yield
    finally:
        BertForSequenceClassification.__init__ = build


@contextmanager
def _quiet_workshop() -> Iterator[None]:
    """Work in a temporary folder, without bars, logs and warnings."""
    here, verbosity, barless = os.getcwd(), optuna.logging.get_verbosity(), are_progress_bars_disabled()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    disable_progress_bars()
    # The Trainer collects garbage several times a run: half a second each time, unless what is loaded is left out.
    gc.freeze()
    with quiet_library(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)
            gc.unfreeze()
            optuna.logging.set_verbosity(verbosity)
            if not barless:
                enable_progress_bars()
