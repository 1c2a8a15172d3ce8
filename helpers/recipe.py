"""What of a student's functions counts: the one table that the checks and training read, so that both say the same."""

from typing import Any

FUNCTIONS = {
    "1d": ("preprocess_dataset",),
    "2a": ("init_model",),
    "2b": ("init_trainer", "init_tester"),
    "2c": ("hyperparameter_search_settings",),
}
COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "label")
CHOICES = ["learning_rate", "per_device_train_batch_size"]

# Of a search's keys: those that decide it, and those that do not, with the values that do not (None: every value).
SEARCH = ("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "sampler", "pruner")
HARMLESS: dict[str, list | None] = {
    **dict.fromkeys(("storage", "study_name", "load_if_exists", "gc_after_trial", "show_progress_bar")),
    **{"n_jobs": [1], "timeout": [None], "catch": [[]], "callbacks": [[], None]},
}

# The fields of TrainingArguments that would change the result or what is measured: the student's, with the value that
# the assignment wants. A field of a newer transformers that this file does not know must have the library's default.
CHECKED: dict[str, Any] = {
    **{"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no", "load_best_model_at_end": False},
    **{"max_steps": -1, "gradient_accumulation_steps": 1, "dataloader_drop_last": False},
    **{"train_sampling_strategy": "random", "lr_scheduler_type": "linear", "lr_scheduler_kwargs": None},
    **{"warmup_steps": 0, "optim": "adamw_torch_fused", "optim_args": None, "optim_target_modules": None},
    **{"weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0},
    **{"label_smoothing_factor": 0.0, "neftune_noise_alpha": None, "eval_delay": 0, "label_names": None},
    **{"prediction_loss_only": False, "batch_eval_metrics": False, "eval_do_concat_batches": True},
    # They change the whole process, and with it the course's own Trainer.
    **{"full_determinism": False, "tf32": None, "torch_compile": False},
    **{"torch_compile_backend": None, "torch_compile_mode": None},
}
# The fields of these that decide what a tester measures.
MEASURED = ("prediction_loss_only", "batch_eval_metrics", "eval_do_concat_batches", "label_names")
# Those that the course sets itself in every run, whatever the student's Trainer has: the check says so, and passes.
OVERRIDDEN = (
    *("learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size", "auto_find_batch_size"),
    *("seed", "data_seed", "use_cpu", "bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "torch_empty_cache_steps"),
    *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing", "use_cache"),
    *("gradient_checkpointing_kwargs", "use_liger_kernel", "liger_kernel_config", "accelerator_config"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "eval_on_start"),
    *("include_num_input_tokens_seen", "include_for_metrics", "eval_accumulation_steps", "eval_use_gather_object"),
    *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_in_order"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "remove_unused_columns"),
    *("parallelism_config", "deepspeed", "fsdp", "fsdp_config", "average_tokens_across_devices"),
)
# Those that change neither the result nor what is measured here: where things are written, and what never comes up.
IGNORED = (
    *("output_dir", "report_to", "disable_tqdm", "run_name", "project", "log_level", "log_level_replica"),
    *("log_on_each_node", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "push_to_hub"),
    *("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
    *("eval_steps", "save_steps", "save_only_model", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint"),
    *("metric_for_best_model", "greater_is_better", "length_column_name", "debug", "skip_memory_metrics"),
    "dataloader_pin_memory",
    *("do_train", "do_eval", "do_predict", "ignore_data_skip", "resume_from_checkpoint", "local_rank"),
    *("restore_callback_states_from_checkpoint", "ddp_find_unused_parameters", "ddp_bucket_cap_mb"),
    *("ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout"),
)
# A Trainer's own arguments. `model_init` and `compute_metrics` are what training takes, `args` are the fields above.
# Of those in UNSET none may be given: training would go on without them, and say nothing.
# (The library's own padding is no data collator of one's own, and its reports are no callbacks.)
UNSET = (
    *("data_collator", "compute_loss_func", "optimizers", "optimizer_cls_and_kwargs", "callbacks"),
    "preprocess_logits_for_metrics",
)
GIVEN = ("args", "model", "model_init", "train_dataset", "eval_dataset", "compute_metrics")
TRAINER = {
    **dict.fromkeys((*CHECKED, *UNSET, *GIVEN), "checked"),
    **dict.fromkeys(OVERRIDDEN, "overridden"),
    **dict.fromkeys((*IGNORED, "processing_class"), "ignored"),
}


def take_checked(arguments: Any) -> dict[str, Any]:
    """The values of a student's TrainingArguments that training goes by, the same for every spelling of the same."""
    return {name: get_value(arguments, name) for name in CHECKED if hasattr(arguments, name)}


def get_value(arguments: Any, name: str) -> Any:
    """A field's value: an enumeration's text, None for what is empty, and one name for both builds of AdamW."""
    value = getattr(arguments, name, None)
    value = getattr(value, "value", value)
    if (name, value) == ("optim", "adamw_torch"):
        return "adamw_torch_fused"
    return None if value in ({}, [], "") or (name, value) == ("label_names", ["labels"]) else value


def read_rows(dataset: Any, start: int, stop: int, names: tuple[str, ...] = COLUMNS) -> dict[str, list]:
    """Rows of what `preprocess_dataset` returned, through its own format or transform, as lists of integers.

    Returns from each name to its rows: lists of integers, and for a label one integer. Raises ValueError with a
    sentence where a column is missing, holds no integers, or does not fit the other columns of its review.
    """
    batch = dataset[start:stop]
    rows = {}
    for name in names:
        try:
            values = _to_list(batch[name])
        except (KeyError, TypeError, IndexError):
            why = "is hidden by the data set's format" if name in dataset.column_names else "is missing"
            raise ValueError(f"column {name}: expected there, but it {why}.") from None
        rows[name] = [_to_integers(value, f"{name} of review {row}") for row, value in enumerate(values, start)]
    tokens = [name for name in names if not name.startswith("label")]
    for row, columns in enumerate(zip(*(rows[name] for name in tokens), strict=True), start):
        if len({*map(len, columns)}) > 1:
            lengths = ", ".join(f"{len(column)} {name}" for name, column in zip(tokens, columns, strict=True))
            raise ValueError(f"review {row}: expected as many of each, found {lengths}.")
        if "attention_mask" in rows and not {*rows["attention_mask"][row - start]} <= {0, 1}:
            raise ValueError(f"attention_mask of review {row}: expected 0 and 1 alone, found other numbers.")
    return rows


def _to_list(values: Any) -> Any:
    """What numpy, torch, pandas and Arrow give, as Python's own lists and numbers."""
    for method in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, method):
            return getattr(values, method)()
    return values


def _to_integers(value: Any, what: str) -> Any:
    value = _to_list(value)
    label = what.startswith("label")
    numbers = [value] if label else list(value) if isinstance(value, (list, tuple)) else [None]
    if {*map(type, numbers)} != {int}:
        numbers = [_to_list(number) for number in numbers]
        for number in numbers:
            if not isinstance(number, (int, float)) or number != number // 1:
                wanted = "an integer" if label else "integers in one list"
                found = "a list in the list, as in a tensor" if isinstance(number, list) else str(number)[:40]
                raise ValueError(f"{what}: expected {wanted}, found {found}.")
        numbers = [int(number) for number in numbers]
    return numbers[0] if label else numbers
