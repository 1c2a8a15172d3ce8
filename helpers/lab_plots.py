"""Figures of the lab, each made from an experiment's results: a dot a seed, the message computed from the figures."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from helpers.figures import GREY, LOOKS, PALE, finish, open_figure
from helpers.plots import MEASURED
from helpers.plots import plot_bias_movement as plot_movement  # noqa: F401
from helpers.report import FIELDS, describe_fields, describe_source, format_rate, list_varied
from helpers.settings import CourseError, Settings

COSTS = {
    "step_seconds": "time of a step",
    "training_memory_gb": "memory of training",
    "optimizer_bytes": "optimizer state",
    "task_bytes": "stored for each task",
}


def plot_variants(results: dict[str, Any]) -> Figure:
    """Draw a row for every variant: each seed's validation accuracy, their mean; hollow: on trained reviews."""
    groups = _group_variants(results["runs"])
    if "encoder" not in list_varied(results["runs"]):
        groups.sort(key=lambda group: -group[2][MEASURED].mean())
    figure, (axis,) = open_figure(1, 7.2, 0.6 + 0.5 * len(groups))
    for row, (policy, _, group) in enumerate(groups):
        _, colour, marker = LOOKS[policy]
        seen, accuracy = group["train_accuracy"], group[MEASURED]
        axis.plot(seen, [row + 0.22] * len(seen), marker, mfc="white", mec=GREY, ms=6)
        axis.plot(accuracy, [row] * len(accuracy), marker, color=colour, ms=9, alpha=0.75)
        axis.plot([accuracy.mean()] * 2, [row - 0.28, row + 0.28], color="black", lw=1.5)
        axis.annotate(f"{accuracy.mean():.3f}", (accuracy.mean(), row - 0.3), ha="center", va="bottom", fontsize=9)
    axis.set_yticks(range(len(groups)), [name.replace(", ", "\n", 1) for _, name, _ in groups])
    axis.set_ylim(len(groups) - 0.4, -0.75)
    axis.set_xlabel(f"validation accuracy (n = {_measured_on(results)})")
    axis.axvline(0.5, color=GREY, lw=1, ls=":")
    axis.grid(axis="x", color=PALE)
    note = "line: mean over the seeds · hollow: accuracy on reviews that were trained on · dotted: guessing"
    return finish(figure, describe_finding(results), describe_source(results, note))


def plot_curve(results: dict[str, Any], field: str) -> Figure:
    """Draw accuracy over a numeric field of the runs (log axis): seeds as dots, means as lines; a panel an encoder."""
    results = results | {"runs": _count_reviews(results)}
    runs = pd.DataFrame(results["runs"])
    panels = list(runs.groupby("encoder", sort=False))
    figure, axes = open_figure(len(panels), 6.6 if len(panels) == 1 else 4.2, 3.4 if len(panels) == 1 else 4)
    for axis, (encoder, here) in zip(axes, panels, strict=True):
        _draw_curves(axis, [run for run in results["runs"] if run["encoder"] == encoder], field)
        if len(panels) > 1:
            axis.set_title(FIELDS["encoder"][1](encoder), fontsize=11)
        steps = f", {here['steps'].iloc[0]:,} steps each" if field == "reviews" and here["steps"].nunique() == 1 else ""
        axis.set_xlabel(f"{FIELDS[field][0]} (log scale){steps}")
        if field == "learning_rate":
            _shade_grid(axis)
    axes[0].set_ylabel(f"accuracy (validation: n = {_measured_on(results)})")
    axes[0].legend(
        loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2 if len(panels) == 1 else 1, frameon=False, fontsize=9
    )
    return finish(figure, describe_finding(results), describe_source(results, "dots: the seeds"))


def _draw_curves(axis: Axes, runs: list[dict[str, Any]], field: str) -> None:
    drawn: dict[str, int] = {}
    # More epochs of fewer reviews are no variants, where the reviews are what the axis shows.
    apart = {field, "encoder"} | ({"epochs"} if field == "reviews" else set())
    for policy, label, group in _group_variants(runs, apart):
        _, colour, marker = LOOKS[policy]
        drawn[policy] = drawn.get(policy, 0) + 1
        colour = 1 - (1 - np.array(to_rgb(colour))) * 0.6 ** (drawn[policy] - 1)  # Paler, variant by variant.
        means = group.groupby(field)[[MEASURED, "train_accuracy"]].mean()
        axis.plot(means.index, means[MEASURED], color=colour, lw=2, label=f"{label}, validation")
        axis.plot(means.index, means["train_accuracy"], "--", color=colour, lw=1.3, label=f"{label}, trained reviews")
        axis.plot(group[field], group[MEASURED], marker, color=colour, ms=7, alpha=0.7)
    ticks = sorted({run[field] for run in runs})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [format_rate(tick) if field == "learning_rate" else f"{tick:,g}" for tick in ticks])
    axis.minorticks_off()
    axis.axhline(0.5, color=GREY, lw=1, ls=":", label="guessing")
    axis.grid(axis="y", color=PALE)


def plot_costs(results: dict[str, Any]) -> Figure:
    """Draw what each policy costs relative to full fine-tuning (log axis); raises CourseError where that is missing."""
    costs = pd.DataFrame(results["runs"]).set_index("policy")
    if "full" not in costs.index or len(costs) < 2:
        raise CourseError("Costs are drawn relative to those of the policy full: measure it and another one.")
    share = (costs[list(COSTS)].astype(float) / costs.loc["full", list(COSTS)].astype(float)).drop("full")
    figure, (axis,) = open_figure(1, 6.6, 3.4)
    height = 0.8 / len(share)
    for place, (policy, row) in enumerate(share.iterrows()):
        label, colour, _ = LOOKS[policy]
        places = np.arange(len(COSTS)) + (place - (len(share) - 1) / 2) * height
        axis.barh(places, row, height * 0.9, color=colour, label=label)
        for y, value in zip(places, row, strict=True):
            if np.isnan(value):
                text, value, inside = "not measured here", axis.get_xlim()[0], False
            else:
                text, inside = f"{value:.1%}" if value >= 0.01 else f"{value:.2%}", 0.1 < value < 1
            # Beside its bar it would stand on the line of full fine-tuning.
            axis.annotate(f" {text} ", (value, y), ha="right" if inside else "left", va="center", fontsize=9)
    axis.axvline(1, color="black", lw=1.2)
    axis.set(xscale="log", xlim=(None, 4), xlabel="relative to full fine-tuning (log scale); line: full fine-tuning")
    axis.set_yticks(range(len(COSTS)), COSTS.values())
    axis.invert_yaxis()
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=3, frameon=False, fontsize=9)
    policy, run = "bitfit" if "bitfit" in share.index else share.index[0], results["provenance"]
    title = (
        f"{LOOKS[policy][0]} stores a task in 1/{1 / share.loc[policy, 'task_bytes']:,.0f} of the space, and a step"
        f" takes {share.loc[policy, 'step_seconds']:.0%} of the time"
    )
    note = f"batch {run['batch_size']} · median of {run['steps']} steps' CPU time, one thread"
    return finish(figure, title, describe_source(results, note))


def describe_finding(results: dict[str, Any]) -> str:
    """One sentence with the main figures of what the runs vary, whatever they turn out to be."""
    runs = pd.DataFrame(_count_reviews(results))
    varied = list_varied(results["runs"])
    policies, rates = set(runs["policy"]), runs["learning_rate"].nunique() > 1
    if {"full", "bitfit+head"} <= policies and (
        field := next((f for f in ("encoder", "reviews") if f in varied), None)
    ):
        best = _mean(runs, [field, "policy", "learning_rate"]).groupby([field, "policy"], sort=False).max().unstack()
        gap = (best["full"] - best["bitfit+head"]).dropna()
        shown = gap if field == "encoder" else gap.sort_index().iloc[[0, -1]] if len(gap) > 1 else gap
        parts = [
            f"{_points(value)} with {'the ' * (field == 'encoder')}{FIELDS[field][1](level)}"
            for level, value in shown.items()
        ]
        return f"Full fine-tuning against BitFit + classifier{', each at its best rate' * rates}: {', '.join(parts)}"
    if "epochs" in varied:
        table = _mean(runs, ["policy", "epochs"]).unstack().sort_index(axis=1)
        change = (table.iloc[:, -1] - table.iloc[:, 0]).dropna()
        parts = [f"{LOOKS[policy][0]} by {_points(value)}" for policy, value in change.items()]
        few, many = table.columns[0], table.columns[-1]
        return f"{many:g} epochs instead of {few:g} change {' and '.join(parts)}{' (mean of the rates)' * rates}"
    if rates:
        best = _mean(runs, ["policy", "learning_rate"]).unstack().idxmax(axis=1)
        parts = [f"{LOOKS[policy][0]} is best at {format_rate(rate)}" for policy, rate in best.items()]
        return f"{' and '.join(parts)}; the grid ends at {format_rate(max(Settings().learning_rates))}"
    mean = _mean(runs[runs["head_scale"] == 1], ["policy"])
    if {"bitfit", "bitfit+head", "head"} <= set(mean.index):
        change = _points(mean["bitfit+head"] - mean["bitfit"])
        return (
            f"Training the classifier too changes BitFit by {change}; the classifier alone reaches {mean['head']:.3f}"
        )
    groups = sorted(_group_variants(results["runs"]), key=lambda group: -group[2][MEASURED].mean())
    names = [f"{name} {table[MEASURED].mean():.3f}" for _, name, table in groups]
    return ", ".join(names) if len(names) <= 3 else f"From {names[-1]} to {names[0]}"


def _count_reviews(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs, those of all reviews (None) with their number."""
    return [run | {"reviews": run["reviews"] or results["provenance"]["data"]["train"]} for run in results["runs"]]


def _mean(runs: pd.DataFrame, by: list[str]) -> pd.Series:
    return runs.groupby(by, sort=False)[MEASURED].mean()


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _group_variants(runs: list[dict[str, Any]], apart: set[str] = frozenset()) -> list[tuple[str, str, pd.DataFrame]]:
    """The runs by policy and by all they differ in, but the seed and the fields `apart`: policy, name, runs."""
    fields = [name for name in list_varied(runs) if name not in {"seed", *apart}]
    table = pd.DataFrame(runs)
    table["variant"] = [
        ", ".join(filter(None, (LOOKS[run["policy"]][0], describe_fields(run, fields)))) for run in runs
    ]
    return [(*key, group) for key, group in table.groupby(["policy", "variant"], sort=False)]


def _shade_grid(axis: Axes) -> None:
    rates = Settings().learning_rates
    low, high = axis.get_xlim()
    axis.axvspan(min(rates), max(rates), color="#efefef", zorder=0, label="the assignment's grid")
    axis.set_xlim(low, high)


def _measured_on(results: dict[str, Any]) -> str:
    counts = sorted({run["measured_on"]["validation"] for run in results["runs"]})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
