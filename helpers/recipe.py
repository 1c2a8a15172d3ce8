"""Which parts of a student's file count: one table for the checks, for training and for the hand-in."""

import ast
import dataclasses
import sys
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
# The parts of a Trainer that are the student's.
PARTS = ("model_init", "args", "train_dataset", "eval_dataset", "compute_metrics")

# The modules of this package, which the grader has, too.
COURSE = """
    __main__ answers checkpoints checks data doctor exercises hub lab lab_plots models offline plots prepare progress
    recipe report results runs settings speed submit sweep tables tokens training workers
""".split()  # noqa: SIM905
# The packages of the course's environment that exercises may import, besides Python's own modules; the grader has them.
PACKAGES = """
    IPython PIL accelerate datasets dateutil dill filelock fsspec huggingface_hub ipywidgets jinja2 joblib matplotlib
    numpy optuna packaging pandas psutil pyarrow regex safetensors scipy sklearn tokenizers torch tqdm transformers
    typing_extensions yaml
""".split()  # noqa: SIM905


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
        # With its library, since torch has a Dataset, too.
        names = (f"{each.__module__.split('.')[0]}.{each.__name__}" for each in (wanted, type(found)))
        name, kind = (each.removeprefix("builtins.") for each in names)
        hint = "return an object of that class itself: neither a part of it, nor one that contains it."
        if found is None:
            hint = "every path must end in `return`; methods that work in place, such as set_format, return None."
        raise Mistake(f"what {function} returns: expected {name}, found {kind}. Hint: {hint}")


def find_imports(code: bytes | str) -> list[str]:
    """The modules and packages that code imports and that the grader may lack.

    An import in a `try` or `with` may be allowed to fail, and one in an `if` may not happen in grading, as in
    `if __name__ == "__main__":`.
    """
    tree, lacking = ast.parse(code), []
    blocks = [node for node in ast.walk(tree) if isinstance(node, (ast.Try, ast.With, ast.If))]
    optional = {id(each) for node in blocks for each in ast.walk(node)}
    for statement in ast.walk(tree):
        if not isinstance(statement, (ast.Import, ast.ImportFrom)) or id(statement) in optional:
            continue
        package = "helpers" if getattr(statement, "level", 0) else ""
        for alias in statement.names:
            parts = [package, *(getattr(statement, "module", None) or "").split("."), *alias.name.split(".")]
            first, second, *_ = [*filter(None, parts), ""]
            if first == "helpers" and second not in ("", *COURSE):
                lacking.append(f"helpers.{second}")
            elif first not in ("helpers", *PACKAGES, *sys.stdlib_module_names):
                lacking.append(first)
    return lacking


def explain_imports(code: bytes | str) -> str:
    """A sentence about what code imports that the grader may lack, or an empty text."""
    if not (lacking := find_imports(code)):
        return ""
    return (
        f"exercises.py imports {', '.join(lacking)}, which the grader may not have. Move your own code into"
        " exercises.py; use only Python's own modules and the packages that the course installs, such as numpy and"
        " torch, or put the import into a `try`."
    )


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
