"""Which parts of a student's functions count: one table for the checks and for training, so that both agree."""

import dataclasses
from typing import Any

FUNCTIONS = {
    "1d": ("preprocess_dataset",),
    "2a": ("init_model",),
    "2b": ("init_trainer", "init_tester"),
    "2c": ("hyperparameter_search_settings",),
}
# The columns of preprocessed reviews, each with a hint at what is often forgotten.
MEANINGS = {
    "input_ids": "they are the given tokenizer's, for the text as it is, padded and truncated to BERT's 512 tokens.",
    "token_type_ids": "the tokenizer returns them, too; all tokens belong to one sentence.",
    "attention_mask": "the tokenizer returns it, too: 1 for a token, 0 for padding.",
    "label": "every row keeps its label: the same name and value, whatever the data set's format or transform.",
}
COLUMNS = tuple(MEANINGS)
CHOICES = ["learning_rate", "per_device_train_batch_size"]

# A search's keys: those that determine it, those that never do, and those that do not if they have one of these values.
SEARCH = ("hp_space", "compute_objective", "n_trials", "direction", "backend", "sampler", "pruner")
HARMLESS = ("hp_name", "storage", "study_name", "load_if_exists", "gc_after_trial", "show_progress_bar")
UNUSED = {"n_jobs": [1], "timeout": [None], "catch": [[], ()], "callbacks": [[], (), None]}

# The fields of TrainingArguments that are the student's: set to what the assignment asks for (`ASKED`), or left at the
# library's defaults (the rest of `CHECKED`). In every run the course sets all others itself, whatever the student's
# Trainer has: the check passes and says so, except for those in `QUIET`.
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
    """What is wrong with a student's function, in a sentence for the student."""


def demand(what: str, expected: Any, found: Any, hint: str) -> None:
    if expected != found:
        raise Mistake(f"{what}: {tell(expected, found)}. Hint: {hint}")


def tell(expected: Any, found: Any) -> str:
    show = repr if str(expected) == str(found) else str
    return f"expected {show(expected)}, found {show(found)}"


def require(function: str, found: Any, wanted: type) -> None:
    """Raise Mistake unless a student's function returned an object of the wanted class."""
    if not isinstance(found, wanted):
        hint = f"`return` the whole result, a {wanted.__name__}"
        hint += "; in-place methods such as set_format return None." if found is None else "."
        kind = type(found).__name__
        kind = f"another {kind}" if kind == wanted.__name__ else kind
        raise Mistake(f"what {function} returns: expected {wanted.__name__}, found {kind}. Hint: {hint}")


def read_arguments(arguments: Any) -> dict[str, Any]:
    """All fields of TrainingArguments (none that a subclass adds), with one value for every spelling of the same."""
    from transformers import TrainingArguments

    return {field.name: _get_value(arguments, field.name) for field in dataclasses.fields(TrainingArguments)}


def take_checked(arguments: Any) -> dict[str, Any]:
    """The values in a student's TrainingArguments that check 2b compares, and that training uses."""
    return {name: value for name, value in read_arguments(arguments).items() if name in CHECKED}


def _get_value(arguments: Any, name: str) -> Any:
    """A field's value: strings for enumeration members, None for empty values, and one name for both kinds of AdamW."""
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
    """Read rows of what `preprocess_dataset` returned, through the data set's own format or transform.

    Returns the rows by column name: each a list of integers, for labels a single integer. Raises Mistake if a column
    is missing, contains other values than integers, or does not fit the other columns.
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
            raise Mistake(f"review {start + row}: expected the same number of each, found {found}.")
    return rows


def _to_list(values: Any) -> Any:
    """Convert NumPy, torch and pandas values to Python lists and numbers."""
    return values.tolist() if hasattr(values, "tolist") else values


def _to_integers(values: Any, what: str) -> list[int]:
    values = _to_list(values)
    wanted = "integers in one list"
    if not isinstance(values, (list, tuple)):
        raise Mistake(f"{what}: expected {wanted}, found {values!r:.40}.")
    if {*map(type, values)} <= {int}:  # The usual case, worth a shortcut: there are millions.
        return list(values)
    return [_to_integer(value, what, wanted) for value in values]


def _to_integer(value: Any, what: str, wanted: str = "an integer") -> int:
    value = _to_list(value)
    if isinstance(value, (int, float)) and value == value // 1:
        return int(value)
    found = "a list in the list, as in a tensor" if isinstance(value, list) else f"{value!r:.40}"
    raise Mistake(f"{what}: expected {wanted}, found {found}.")
