"""What of a student's functions counts: the one table that the checks and training read, so that both say the same."""

import dataclasses
from typing import Any

FUNCTIONS = {
    "1d": ("preprocess_dataset",),
    "2a": ("init_model",),
    "2b": ("init_trainer", "init_tester"),
    "2c": ("hyperparameter_search_settings",),
}
# What preprocessed reviews consist of, and what is often forgotten about it.
MEANINGS = {
    "input_ids": "they are the given tokenizer's, for the text as it is, padded and cut to BERT's 512 tokens.",
    "token_type_ids": "the tokenizer gives them, too, all for one sentence.",
    "attention_mask": "the tokenizer gives it, too: 1 for a token, 0 for padding.",
    "label": "rows keep their label, and its name and value, whatever their format or transform.",
}
COLUMNS = tuple(MEANINGS)
CHOICES = ["learning_rate", "per_device_train_batch_size"]

# Of a search's keys: those that decide it, those that never do, and those that do not with one of these values.
SEARCH = ("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "sampler", "pruner")
HARMLESS = ("storage", "study_name", "load_if_exists", "gc_after_trial", "show_progress_bar")
UNUSED = {"n_jobs": [1], "timeout": [None], "catch": [[], ()], "callbacks": [[], None]}

# The fields of TrainingArguments that are the student's: with the values that the assignment wants (`ASKED`), or as the
# library has them (the rest of `CHECKED`). All others are the course's own in every run, whatever the student's Trainer
# has: the check says so, and passes; of those in `QUIET` it says nothing.
ASKED = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no"}
CHECKED = """
    num_train_epochs max_steps eval_strategy eval_delay save_strategy load_best_model_at_end lr_scheduler_type
    lr_scheduler_kwargs warmup_steps optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2
    adam_epsilon gradient_accumulation_steps max_grad_norm label_smoothing_factor neftune_noise_alpha
    prediction_loss_only eval_do_concat_batches batch_eval_metrics label_names dataloader_drop_last
    train_sampling_strategy
""".split()  # noqa: SIM905
QUIET = ("output_dir", "report_to", "disable_tqdm", "run_name", "do_train", "do_eval", "do_predict")


class Mistake(ValueError):
    """What is not right about a student's function, in a sentence for the student."""


def demand(what: str, expected: Any, found: Any, hint: str) -> None:
    if expected != found:
        raise Mistake(f"{what}: {tell(expected, found)}. Hint: {hint}")


def tell(expected: Any, found: Any) -> str:
    show = repr if str(expected) == str(found) else str
    return f"expected {show(expected)}, found {show(found)}"


def require(function: str, found: Any, wanted: type) -> None:
    """What a student's function returns must be of this class; raises Mistake."""
    if not isinstance(found, wanted):
        hint = f"`return` the whole result, a {wanted.__name__}; what changes in place, as set_format does, gives None."
        kind = type(found).__name__
        kind = f"another {kind}" if kind == wanted.__name__ else kind
        raise Mistake(f"what {function} returns: expected {wanted.__name__}, found {kind}. Hint: {hint}")


def read_arguments(arguments: Any) -> dict[str, Any]:
    """All fields of TrainingArguments, of a subclass those alone, the same for every spelling of the same."""
    from transformers import TrainingArguments

    return {field.name: _get_value(arguments, field.name) for field in dataclasses.fields(TrainingArguments)}


def take_checked(arguments: Any) -> dict[str, Any]:
    """The values of a student's TrainingArguments that check 2b compares, and that training goes by."""
    return {name: value for name, value in read_arguments(arguments).items() if name in CHECKED}


def _get_value(arguments: Any, name: str) -> Any:
    """A field's value: an enumeration's text, None for what is empty, and one name for both builds of AdamW."""
    value = getattr(arguments, name)
    value = getattr(value, "value", value)
    if (name, value) == ("optim", "adamw_torch"):
        return "adamw_torch_fused"
    if (name, value) == ("label_names", ["labels"]):
        return None
    if (name, value) == ("eval_delay", None):
        return 0
    return None if isinstance(value, (dict, list, tuple, str)) and not value else value


def read_rows(dataset: Any, start: int, stop: int, names: tuple[str, ...] = COLUMNS) -> dict[str, list]:
    """Rows of what `preprocess_dataset` returned, through its own format or transform, as lists of integers.

    Returns from each name to its rows: lists of integers, and for a label one integer. Raises Mistake where a
    column is missing, holds no integers, or does not fit the other columns.
    """
    batch = dataset[start:stop]
    rows = {}
    for name in names:
        try:
            values = _to_list(batch[name])
        except (KeyError, TypeError, IndexError):
            why = "is hidden by the data set's format" if name in dataset.column_names else "is missing"
            raise Mistake(f"column {name}: expected there, but it {why}.") from None
        convert = _to_integer if name.startswith("label") else _to_integers
        rows[name] = [convert(value, f"{name} of review {row}") for row, value in enumerate(values, start)]
        if len(values) != stop - start:
            raise Mistake(f"column {name}: expected a row for each of {stop - start} reviews, found {len(values)}.")
    tokens = [name for name in names if not name.startswith("label")]
    for row in range(stop - start):
        lengths = {name: len(rows[name][row]) for name in tokens}
        if len({*lengths.values()}) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise Mistake(f"review {start + row}: expected as many of each, found {found}.")
    return rows


def _to_list(values: Any) -> Any:
    """What numpy, torch, pandas and Arrow give, as Python's own lists and numbers."""
    for method in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, method):
            return getattr(values, method)()
    return values


def _to_integers(values: Any, what: str) -> list[int]:
    values = _to_list(values)
    wanted = "integers in one list"
    if not isinstance(values, (list, tuple)):
        raise Mistake(f"{what}: expected {wanted}, found {values!r:.40}.")
    if {*map(type, values)} <= {int}:  # Almost always, and there are millions.
        return list(values)
    return [_to_integer(value, what, wanted) for value in values]


def _to_integer(value: Any, what: str, wanted: str = "an integer") -> int:
    value = _to_list(value)
    if isinstance(value, (int, float)) and value == value // 1:
        return int(value)
    found = "a list in the list, as in a tensor" if isinstance(value, list) else f"{value!r:.40}"
    raise Mistake(f"{what}: expected {wanted}, found {found}.")
