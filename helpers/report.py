"""The assignment's two tables, and sentences with measured figures: all generated from a results file."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from helpers.results import best_run, is_whole, list_policies, reached
from helpers.settings import CourseError, Run, short_name

# As in the answer sheet; the rows of other policies have the policy's name, as in the lab's tables.
ROW_NAMES = {"full": "Without BitFit", "bitfit": "With BitFit"}
# The columns of problems 3a and 3b, from a policy's best run.
VALIDATION: dict[str, Callable[[dict[str, Any]], str]] = {
    "Validation accuracy": lambda best: f"{best['validation_accuracy']:.4f}",
    "Learning rate": lambda best: format_rate(best["learning_rate"]),
    "Batch size": lambda best: str(best["batch_size"]),
}
TEST: dict[str, Callable[[dict[str, Any]], str]] = {
    "# trainable parameters": lambda best: str(best["trainable_parameters"]),
    "Test accuracy": lambda best: f"{best['test']['accuracy']:.5f}".rstrip("0").ljust(6, "0"),
}
ENCODERS = {"checkpoint": "pre-trained tiny", "random": "random"}


def format_rate(value: float) -> str:
    """Write a learning rate as the papers do: 3e-4."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


# The fields in which runs of a policy can differ: the full name with its unit, and its form in a run's name.
FIELDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "encoder": ("encoder", lambda value: f"{ENCODERS.get(value, short_name(value))} encoder"),
    "learning_rate": ("learning rate", lambda value: f"rate {format_rate(value)}"),
    "batch_size": ("batch size (reviews)", "batch {:.0f}".format),
    "epochs": ("epochs", lambda value: f"{value:g} epoch{'s' * (value != 1)}"),
    "reviews": ("different training reviews", "{:,.0f} reviews".format),
    "tokens": ("tokens of a review that are read", "{:,.0f} tokens".format),
    "head_scale": ("factor of the classifier's first weight", "classifier weight x {:g}".format),
    "validation": ("validation reviews", "{:,.0f} validation reviews".format),
    "seed": ("seed", "seed {:.0f}".format),
}


def list_varied(runs: Iterable[dict[str, Any]]) -> list[str]:
    """The fields of `FIELDS` in which these runs differ."""
    runs = list(runs)
    return [name for name in FIELDS if len({run[name] for run in runs}) > 1]


def read_lab(results: dict[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """A lab's runs, with the number of reviews filled in where it was None (all), and the fields that the lab varies.

    These are the fields in which the runs differ, except for the seed. `epochs` is left out if all runs see the same
    total number of reviews: then it follows from `reviews`.
    """
    if not results["runs"] or not all("train_accuracy" in run for run in results["runs"]):
        raise CourseError("These are no results of the lab: use `plots` for a search, and `tabulate_costs` for costs.")
    counts = results["provenance"]["data"]
    splits = {"reviews": "train", "validation": "validation"}
    runs = [run | {name: run[name] or counts[split] for name, split in splits.items()} for run in results["runs"]]
    as_many = len({round(run["reviews"] * run["epochs"]) for run in runs}) == 1
    varied = [name for name in list_varied(runs) if name != "seed" and not (as_many and name == "epochs")]
    return pd.DataFrame(runs), varied


def list_values(run: dict[str, Any], fields: Iterable[str]) -> list[str]:
    """A run's values of these fields: `rate 3e-4`, `batch 8`; default values (None, a factor of 1) are left out."""
    values = [(name, run[name]) for name in fields if run[name] is not None]
    return [FIELDS[name][1](value) for name, value in values if (name, value) != ("head_scale", 1)]


def describe_source(results: dict[str, Any], note: str = "") -> str:
    """Say how the figures were made: profile, model, data, what all runs share (if unusual), precision, seeds."""
    run, runs = results["provenance"], results["runs"]
    parts = [f"Profile {run['profile']}"]
    for what, real in (("model", "bert-tiny"), ("data", "IMDb")):
        name = run[what]["name"]
        parts.append(f"{what} {name}" + f" (stands in for {real})" * name.startswith("offline "))
    counts, seeds = {one["reviews"] or run["data"]["train"] for one in runs}, {one["seed"] for one in runs}
    if len(counts) == 1:
        parts.append(f"{counts.pop():,} training reviews")
    common = [name for name in FIELDS if name not in (*list_varied(runs), "reviews", "validation", "seed")]
    parts += list_values(runs[0], [name for name in common if runs[0][name] != getattr(Run, name)])
    parts += [run["recipe"]["precision"], f"seed {seeds.pop()}" if len(seeds) == 1 else f"{len(seeds)} seeds", note]
    return " · ".join(filter(None, parts))


def name_tensor(tensor: str) -> str:
    """The layer of a bias tensor, counted from 1, and the tensor's place in it: `layer 1 · attention query`."""
    layer, *path = tensor.removeprefix("bert.").removeprefix("encoder.").removesuffix(".bias").split(".")
    if layer == "layer":
        layer, path = f"layer {int(path[0]) + 1}", [part for part in path[1:] if part != "self"]
    return f"{layer} · {' '.join(path)}"


def validation_table(results: dict[str, Any], published: dict[str, Any] | None = None) -> pd.DataFrame:
    """Problem 3a: each policy's best run; with `published`, the published figures next to ours."""
    return _tabulate(results, published, VALIDATION)


def test_table(results: dict[str, Any], published: dict[str, Any] | None = None) -> pd.DataFrame:
    """Problem 3b: each policy's trainable parameters and test accuracy; `published` as in `validation_table`."""
    return _tabulate(results, published, TEST)


def _tabulate(results: dict[str, Any], published: dict[str, Any] | None, columns: dict[str, Callable]) -> pd.DataFrame:
    table = pd.DataFrame(index=[ROW_NAMES.get(policy, policy) for policy in list_policies(results)])
    for prefix, source in (("", results), ("Published: ", published)):
        if source:
            best = {ROW_NAMES.get(policy, policy): tested_run(source, policy) for policy in list_policies(source)}
            for name, write in columns.items():
                table[prefix + name] = pd.Series({row: write(run) for row, run in best.items()})
    return table.fillna("")


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table in GitHub's Markdown."""
    head = ["", *table.columns]
    rows = [[name, *row] for name, row in zip(table.index, table.astype(str).values.tolist(), strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def describe_run(results: dict[str, Any]) -> str:
    """Say how the figures were made: profile, model, data, seeds, precision, versions, machine and time."""
    run = results["provenance"]
    data, machine, versions = run["data"], run["hardware"], run["versions"]
    seeds = sorted({one["seed"] for one in results["runs"]})
    parts = [
        f"profile `{run['profile']}`",
        f"model: {run['model']['name']} ({run['model']['fingerprint']})",
        f"data: {data['name']} ({data['fingerprint']}; {data['train']:,} training, {data['validation']:,} validation,"
        f" {data['test']:,} test reviews)",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        f"precision {run['recipe']['precision']}",
        f"Python {versions['python']}, torch {versions['torch']}, transformers {versions['transformers']}",
        f"{run['workers'] or 1} process(es) of {run['threads']} thread(s) on {machine['cores']} cores"
        f" ({machine['gpu'] or machine['processor']})",
        f"{run['wall_seconds'] / 60:.1f} minutes, interrupted sessions included",
    ]
    stopped = [one for one in results["runs"] if not is_whole(one)]
    if stopped:
        trained = sum(map(reached, results["runs"]))
        parts.append(
            f"{len(stopped)} of {len(results['runs'])} runs, the less promising ones, stopped early (`--prune`:"
            f" {trained:g} of {sum(one['epochs'] for one in results['runs']):g} epochs trained)"
        )
    return "; ".join([*parts, f"finished {run['finished']}"]) + "."


def describe_gap(results: dict[str, Any]) -> str:
    """Say in Markdown what the run measured: parameters saved, accuracy lost, and its standard error."""
    full, bitfit = (tested_run(results, policy) for policy in ("full", "bitfit"))
    high, low, n = full["test"]["accuracy"], bitfit["test"]["accuracy"], full["test"]["n"]
    share = bitfit["trainable_parameters"] / full["trainable_parameters"]
    error = math.sqrt((high * (1 - high) + low * (1 - low)) / n)
    return (
        f"Measured in this run (profile `{results['provenance']['profile']}`): BitFit trains"
        f" {bitfit['trainable_parameters']:,} of {full['trainable_parameters']:,} parameters ({share:.4%}), which is"
        f" {1 - share:.2%} fewer. On the {n:,} test reviews it reaches {low:.4f}, full fine-tuning {high:.4f}: a"
        f" difference of {100 * (high - low):.1f} points ({(high - low) / high:.1%} relative), with a standard error of"
        f" {100 * error:.1f} points from the size of the test set alone (one training run for each policy)."
    )


def tested_run(results: dict[str, Any], policy: str) -> dict[str, Any]:
    """A policy's best run, with its test; raises CourseError if the results have none."""
    best = best_run(results, policy)
    if best is None or "test" not in best:
        raise CourseError(
            f"These results have no tested run of the policy {policy!r}. Run `python -m helpers assignment`: it trains"
            " and tests what is missing."
        )
    return best
