"""Figures of the lab, each made from an experiment's results: a dot a seed, the message computed from the figures."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import GREY, LOOKS, STYLE, describe_source, draw_movement, finish
from helpers.report import format_rate
from helpers.settings import Settings

NAMES = {
    "learning_rate": lambda value: f"rate {format_rate(value)}",
    "epochs": lambda value: f"{value:g} epochs",
    "encoder": lambda value: {"random": "random encoder", "checkpoint": "pre-trained tiny encoder"}.get(
        value, f"{value} encoder"
    ),
    "head_scale": lambda value: "" if value == 1 else f"frozen head × {value:g}",
}


def plot_variants(results: dict[str, Any]) -> Figure:
    """Draw a row for every variant: each seed's validation accuracy, their mean; hollow: on trained reviews."""
    runs = pd.DataFrame(results["runs"])
    varied = [name for name in NAMES if runs[name].nunique() > 1]
    groups = list(runs.groupby([*varied[:1], "policy", *varied[1:]], sort=False))
    if "encoder" not in varied:
        groups.sort(key=lambda group: -group[1]["validation_accuracy"].mean())
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.2, 1.6 + 0.5 * len(groups)), layout="constrained")
    labels = []
    for row, (_, group) in enumerate(groups):
        label, colour, marker = LOOKS[group["policy"].iloc[0]]
        extra = ", ".join(filter(None, (NAMES[name](group[name].iloc[0]) for name in varied)))
        labels.append(f"{label}\n{extra}" if extra else label)
        seen, accuracy = group["train_accuracy"], group["validation_accuracy"]
        axis.plot(seen, [row + 0.22] * len(seen), marker, mfc="white", mec=GREY, ms=6)
        axis.plot(accuracy, [row] * len(accuracy), marker, color=colour, ms=9, alpha=0.75)
        axis.plot([accuracy.mean()] * 2, [row - 0.28, row + 0.28], color="black", lw=1.5)
        axis.annotate(f"{accuracy.mean():.3f}", (accuracy.mean(), row - 0.3), ha="center", va="bottom", fontsize=9)
    axis.set_yticks(range(len(groups)), labels)
    axis.set_ylim(len(groups) - 0.4, -0.75)
    axis.set_xlabel(f"validation accuracy (n = {results['runs'][0]['measured_on']['validation']:,})")
    axis.axvline(0.5, color=GREY, lw=1, ls=":")
    axis.grid(axis="x", color="#e0e0e0")
    axis.set_axisbelow(True)
    note = "line: mean over the seeds; hollow: accuracy on reviews that were trained on; dotted: guessing"
    return finish(figure, describe_finding(results), f"{_source(results)} · {note}")


def plot_curve(results: dict[str, Any], field: str) -> Figure:
    """Draw accuracy over `learning_rate` or `reviews` (log axis): seeds as dots, means as lines; a panel an encoder."""
    runs = pd.DataFrame(results["runs"])
    panels = list(runs.groupby("encoder", sort=False))
    with plt.rc_context(STYLE):
        size = 7.6 if len(panels) == 1 else 4.7 * len(panels), 4.4
        figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (encoder, runs_here) in zip(axes[0], panels, strict=True):
        _draw_curves(axis, runs_here, field)
        if len(panels) > 1:
            axis.set_title(NAMES["encoder"](encoder), fontsize=11)
    first = results["runs"][0]
    axes[0][0].set_ylabel(f"accuracy (validation: n = {first['measured_on']['validation']:,})")
    for axis in axes[0]:
        if field == "learning_rate":
            axis.set_xlabel("learning rate (log scale)")
            _shade_grid(axis)
        else:
            axis.set_xlabel(f"different training reviews (log scale), {first['steps']:,} steps each")
    axes[0][0].legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False, fontsize=9)
    return finish(figure, describe_finding(results), f"{_source(results)} · dots: the seeds")


def _draw_curves(axis: Axes, runs: pd.DataFrame, field: str) -> None:
    for policy, group in runs.groupby("policy", sort=False):
        label, colour, marker = LOOKS[policy]
        means = group.groupby(field)[["validation_accuracy", "train_accuracy"]].mean()
        axis.plot(means.index, means["validation_accuracy"], color=colour, lw=2, label=f"{label}, validation")
        axis.plot(means.index, means["train_accuracy"], "--", color=colour, lw=1.3, label=f"{label}, trained reviews")
        axis.plot(group[field], group["validation_accuracy"], marker, color=colour, ms=7, alpha=0.7)
    ticks = sorted(runs[field].unique())
    axis.set_xscale("log")
    axis.set_xticks(
        ticks, [format_rate(tick) if field == "learning_rate" else f"{tick:,}" for tick in ticks], minor=False
    )
    axis.minorticks_off()
    axis.axhline(0.5, color=GREY, lw=1, ls=":", label="guessing")
    axis.grid(axis="y", color="#e0e0e0")


def plot_movement(results: dict[str, Any]) -> Figure:
    """Draw how far each bias tensor went from its start, of an experiment's policies at its plain settings."""
    runs = pd.DataFrame(results["runs"])
    runs = runs[(runs["head_scale"] == 1) & (runs["encoder"] == "checkpoint")]
    moved = {
        policy: pd.DataFrame(list(group["bias_movement"]))
        for policy, group in runs.groupby("policy", sort=False)
        if any(group["bias_movement"].iloc[0].values())
    }
    figure = draw_movement(moved)
    mean = {policy: table.mean().sort_values() for policy, table in moved.items()}
    leader = max(mean, key=lambda policy: mean[policy].iloc[-1])
    tensor = mean[leader].index[-1].removeprefix("bert.").removesuffix(".bias")
    title = f"Most moved: {tensor} under {LOOKS[leader][0]}"
    return finish(figure, title, f"{_source(results)} · every dot is a seed")


def plot_costs(results: dict[str, Any]) -> Figure:
    """Draw what a policy costs relative to full fine-tuning (log axis)."""
    costs = pd.DataFrame.from_dict(results["costs"], orient="index")
    names = {
        "step_seconds": "time of a step",
        "training_memory_gb": "memory of training",
        "optimizer_bytes": "optimizer state",
        "task_bytes": "stored for each task",
    }
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    share = costs[list(names)] / costs.loc["full", list(names)]
    height = 0.8 / (len(share) - 1)
    for place, policy in enumerate(share.index.drop("full")):
        label, colour, _ = LOOKS[policy]
        rows = np.arange(len(names)) + place * height
        axis.barh(rows, share.loc[policy], height * 0.9, left=0, color=colour, label=label)
        for row, value in zip(rows, share.loc[policy], strict=True):
            inside = value > 0.1  # Beside the bar it would stand on the line of full fine-tuning.
            axis.annotate(
                f" {value:.1%} " if value >= 0.01 else f" {value:.2%}",
                (value, row),
                ha="right" if inside else "left",
                va="center",
                fontsize=9,
            )
    axis.axvline(1, color="black", lw=1.2)
    axis.set(xscale="log", xlim=(None, 4))
    axis.set_yticks(np.arange(len(names)) + height, names.values())
    axis.invert_yaxis()
    axis.set_xlabel("relative to full fine-tuning (log scale); line: full fine-tuning")
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=3, frameon=False, fontsize=9)
    run = results["provenance"]
    time, stored = (
        share.loc["bitfit+head", "step_seconds"],
        costs["task_bytes"]["full"] / costs["task_bytes"]["bitfit+head"],
    )
    title = f"BitFit stores a task in 1/{stored:,.0f} of the space, and a step takes {time:.0%} of the time"
    note = (
        f"{run['recipe']['precision']}, batch {run['batch_size']}, median of {run['steps']} steps' CPU time, one thread"
    )
    return finish(figure, title, f"{describe_source(results, seeds=False)} · {note}")


def describe_finding(results: dict[str, Any]) -> str:
    """One sentence with the experiment's main figures, whatever they turn out to be."""
    runs = pd.DataFrame(results["runs"])

    def mean(column: str = "validation_accuracy", **fields: Any) -> float:
        chosen = runs
        for name, value in fields.items():
            chosen = chosen[chosen[name] == value]
        return chosen[column].mean()

    def points(difference: float) -> str:
        return f"{100 * difference:+.1f} points"

    plain = {"head_scale": 1} if "head_scale" in runs else {}
    bitfit, trained = mean(policy="bitfit", **plain), mean(policy="bitfit+head")
    match results["experiment"]:
        case "head":
            return (
                f"Training the classifier too changes BitFit by {points(trained - bitfit)};"
                f" the classifier alone reaches {mean(policy='head'):.3f}"
            )
        case "rate":
            best = runs.groupby(["policy", "learning_rate"])["validation_accuracy"].mean().unstack()
            parts = [f"{LOOKS[p][0]} is best at {format_rate(row.idxmax())}" for p, row in best.iterrows()]
            return f"{' and '.join(parts)}; the grid ends at {format_rate(max(Settings().learning_rates))}"
        case "steps":
            longest, shortest = runs["epochs"].max(), runs["epochs"].min()
            parts = [
                f"{LOOKS[p][0]} by {points(mean(policy=p, epochs=longest) - mean(policy=p, epochs=shortest))}"
                for p in ("bitfit", "bitfit+head")
            ]
            return f"{longest:g} epochs instead of {shortest:g} change {' and '.join(parts)} (mean of the rates)"
        case "data":
            sizes = runs["reviews"].min(), runs["reviews"].max()
            gaps = [points(mean(policy="full", reviews=n) - mean(policy="bitfit+head", reviews=n)) for n in sizes]
            return (
                f"Full fine-tuning against BitFit + classifier: {gaps[0]} with {sizes[0]:,} reviews, {gaps[1]} with"
                f" {sizes[1]:,}"
            )
        case "pretraining" | "encoder":
            rates = runs.groupby(["encoder", "policy", "learning_rate"], sort=False)["validation_accuracy"].mean()
            best = rates.groupby(["encoder", "policy"], sort=False).max().unstack()
            gaps = best["full"] - best["bitfit+head"]
            parts = [f"{points(gap)} with the {NAMES['encoder'](name)}" for name, gap in gaps.items()]
            each = ", each at its best rate" if runs["learning_rate"].nunique() > 1 else ""
            return f"Full fine-tuning against BitFit + classifier{each}: {', '.join(parts)}"
        case _:
            means = runs.groupby("policy", sort=False)["validation_accuracy"].mean()
            return ", ".join(f"{LOOKS[policy][0]} {value:.3f}" for policy, value in means.items())


def _shade_grid(axis: Axes) -> None:
    rates = Settings().learning_rates
    low, high = axis.get_xlim()
    axis.axvspan(min(rates), max(rates), color="#efefef", zorder=0, label="the assignment's grid")
    axis.set_xlim(low, high)


def _source(results: dict[str, Any]) -> str:
    seeds = len({run["seed"] for run in results["runs"]})
    precision = results["provenance"]["recipe"]["precision"]
    return f"{describe_source(results, seeds=False)} · {precision} · {seeds} seed{'s' * (seeds != 1)}"
