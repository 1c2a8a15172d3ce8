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
    "input_ids": "they are the tokenizer's, for the text as it is, padded and cut to the 512 tokens that BERT reads.",
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

# The fields of TrainingArguments. These are the student's, with the value that the assignment wants. So is every field
# that stands nowhere here, a newer library's, too: it would change the result, and must be as the library has it.
ASKED = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no"}
# Those that the course sets itself in every run, whatever the student's Trainer has: the check says so, and passes.
OVERRIDDEN = """
    learning_rate per_device_train_batch_size per_device_eval_batch_size auto_find_batch_size seed data_seed
    use_cpu bf16 fp16 bf16_full_eval fp16_full_eval torch_empty_cache_steps use_cache accelerator_config
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    use_liger_kernel liger_kernel_config parallelism_config deepspeed fsdp fsdp_config average_tokens_across_devices
    logging_strategy logging_steps logging_first_step logging_nan_inf_filter include_num_input_tokens_seen
    eval_on_start include_for_metrics eval_accumulation_steps eval_use_gather_object remove_unused_columns
    dataloader_num_workers dataloader_persistent_workers dataloader_in_order dataloader_prefetch_factor
    dataloader_multiprocessing_context
""".split()  # noqa: SIM905
# Those that change neither the result nor what is measured here: where things are written, and what never comes up.
IGNORED = """
    output_dir report_to disable_tqdm run_name project log_level log_level_replica log_on_each_node
    trackio_space_id trackio_bucket_id trackio_static_space_id push_to_hub hub_token hub_private_repo hub_model_id
    hub_strategy hub_always_push hub_revision eval_steps save_steps save_only_model save_on_each_node save_total_limit
    enable_jit_checkpoint metric_for_best_model greater_is_better length_column_name debug skip_memory_metrics
    do_train do_eval do_predict ignore_data_skip resume_from_checkpoint restore_callback_states_from_checkpoint
    dataloader_pin_memory local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
    ddp_static_graph ddp_backend ddp_timeout
""".split()  # noqa: SIM905


class Mistake(ValueError):
    """What is not right about a student's function, in a sentence for the student."""


def demand(what: str, expected: Any, found: Any, hint: str) -> None:
    if expected != found:
        raise Mistake(f"{what}: expected {expected}, found {found}. Hint: {hint}")


def read_arguments(arguments: Any) -> dict[str, Any]:
    """All fields of TrainingArguments, of a subclass those alone, the same for every spelling of the same."""
    from transformers import TrainingArguments

    return {field.name: _get_value(arguments, field.name) for field in dataclasses.fields(TrainingArguments)}


def take_checked(arguments: Any) -> dict[str, Any]:
    """The values of a student's TrainingArguments that check 2b compares, and that training goes by."""
    left_out = {*OVERRIDDEN, *IGNORED}
    return {name: value for name, value in read_arguments(arguments).items() if name not in left_out}


def _get_value(arguments: Any, name: str) -> Any:
    """A field's value: an enumeration's text, None for what is empty, and one name for both builds of AdamW."""
    value = getattr(arguments, name)
    value = getattr(value, "value", value)
    if (name, value) == ("optim", "adamw_torch"):
        return "adamw_torch_fused"
    if (name, value) == ("label_names", ["labels"]):
        return None
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
