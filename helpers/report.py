"""The assignment's two tables and its measured sentences, made from a results file and never typed by hand."""

import math
from typing import Any

import pandas as pd

ROW_NAMES = {
    "full": "Without BitFit",
    "bitfit": "With BitFit",
    "bitfit+head": "With BitFit and a trained classifier",
    "head": "Classifier only",
    "bitfit-qi+head": "With BitFit of query and MLP, and a trained classifier",
}


def validation_table(results: dict[str, Any], published: dict[str, Any] | None = None) -> pd.DataFrame:
    """Problem 3a: each policy's best cell; with `published`, that document's figures beside ours."""
    return _table(results, published, _validation_row)


def test_table(results: dict[str, Any], published: dict[str, Any] | None = None) -> pd.DataFrame:
    """Problem 3b: each policy's trainable parameters and test accuracy; `published` as in `validation_table`."""
    return _table(results, published, _test_row)


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table as GitHub's Markdown does."""
    head = ["", *table.columns]
    rows = [[name, *row] for name, row in zip(table.index, table.astype(str).values.tolist(), strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def describe_run(results: dict[str, Any]) -> str:
    """Name what made the figures: profile, model, data, seed, versions, machine and time."""
    run = results["provenance"]
    data, machine, versions = run["data"], run["hardware"], run["versions"]
    parts = [
        f"profile `{run['profile']}`",
        f"model: {run['model']['name']} ({run['model']['fingerprint']})",
        f"data: {data['name']} ({data['fingerprint']}; {data['train']:,} training, {data['validation']:,} validation,"
        f" {data['test']:,} test reviews)",
        f"seed {run['recipe']['seed']}",
        f"torch {versions['torch']}, transformers {versions['transformers']}",
        f"{run['workers'] or 1} process(es) of {run['threads']} thread(s) on {machine['cores']} cores"
        f" ({machine['gpu'] or machine['processor']})",
        f"{run['wall_seconds'] / 60:.1f} minutes",
        f"finished {run['finished']}",
    ]
    if any(policy.get("search") == "pruned" for policy in results["policies"].values()):
        cells = [cell for policy in results["policies"].values() for cell in policy["cells"]]
        trained, whole = sum(len(cell["epochs"]) for cell in cells), len(cells) * run["recipe"]["epochs"]
        parts.insert(-1, f"less promising cells stopped early (`--prune`: {trained} of {whole} epochs trained)")
    return "; ".join(parts) + "."


def describe_gap(results: dict[str, Any]) -> str:
    """Say in Markdown what the run measured: parameters saved, accuracy lost, and how sure that is."""
    full, bitfit = results["policies"]["full"], results["policies"]["bitfit"]
    high, low, n = full["test"]["accuracy"], bitfit["test"]["accuracy"], full["test"]["n"]
    share = bitfit["trainable_parameters"] / full["trainable_parameters"]
    error = math.sqrt((high * (1 - high) + low * (1 - low)) / n)
    return (
        f"Measured in this run (profile `{results['provenance']['profile']}`): BitFit trains"
        f" {bitfit['trainable_parameters']:,} of {full['trainable_parameters']:,} parameters ({share:.4%}), which is"
        f" {1 - share:.2%} fewer. On the {n:,} test reviews it reaches {low:.4f}, full fine-tuning {high:.4f}: a"
        f" difference of {100 * (high - low):.1f} points ({(high - low) / high:.1%} relative), with a standard error of"
        f" {100 * error:.1f} points from the size of the test set alone (one training run a policy)."
    )


def _table(results, published, row) -> pd.DataFrame:
    rows = {}
    for policy, measured in results["policies"].items():
        cells = row(measured)
        if published is not None:
            known = published["policies"].get(policy)
            cells |= {f"Published: {name}": value for name, value in row(known).items()} if known else {}
        rows[ROW_NAMES[policy]] = cells
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _validation_row(policy: dict[str, Any]) -> dict[str, str]:
    best = policy["best"]
    return {
        "Validation accuracy": f"{best['validation_accuracy']:.4f}",
        "Learning rate": format_rate(best["learning_rate"]),
        "Batch size": str(best["batch_size"]),
    }


def _test_row(policy: dict[str, Any]) -> dict[str, str]:
    return {
        "# trainable parameters": str(policy["trainable_parameters"]),
        "Test accuracy": f"{policy['test']['accuracy']:.5f}".rstrip("0").ljust(6, "0"),
    }


def format_rate(value: float) -> str:
    """Write a learning rate as the papers do: 3e-4."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
