"""Figures of the lab, each drawn from an experiment's results: one dot per seed, and a title computed from the data."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from helpers.plots import GREY, LOOKS, MEASURED, PALE, finish, open_figure, put_legend
from helpers.report import FIELDS, describe_source, format_rate, list_values, read_lab
from helpers.settings import CourseError, Settings


def plot_variants(results: dict[str, Any]) -> Figure:
    """Draw a row for every variant: each seed's validation accuracy, their mean, and (hollow) training accuracy."""
    runs, _ = _read(results)
    runs["mean"] = runs.groupby("variant")[MEASURED].transform("mean")
    runs = runs.sort_values(["encoder", "mean"], ascending=False, kind="stable")
    variants = list(runs.groupby("variant", sort=False))
    figure, (axis,) = open_figure(1, 7.2, 0.6 + 0.5 * len(variants))
    for row, (_, group) in enumerate(variants):
        _, colour, marker = LOOKS[group["policy"].iloc[0]]
        mean = group["mean"].iloc[0]
        axis.plot(group["train_accuracy"], [row + 0.22] * len(group), marker, mfc="white", mec=GREY, ms=6)
        axis.plot(group[MEASURED], [row] * len(group), marker, color=colour, ms=9, alpha=0.75)
        axis.plot([mean] * 2, [row - 0.28, row + 0.28], color="black", lw=1.5)
        axis.annotate(f"{mean:.3f}", (mean, row - 0.3), ha="center", va="bottom", fontsize=9)
    axis.set_yticks(range(len(variants)), [name.replace(", ", "\n", 1) for name, _ in variants])
    axis.set_ylim(len(variants) - 0.4, -0.75)
    axis.set_xlabel(f"accuracy (validation: n = {_measured_on(runs)})")
    axis.axvline(0.5, color=GREY, lw=1, ls=":")
    axis.grid(axis="x", color=PALE)
    note = "line: mean over the seeds · hollow: accuracy on reviews that were trained on · dotted: guessing"
    return finish(figure, describe_finding(results), describe_source(results, note))


def plot_curve(results: dict[str, Any], field: str) -> Figure:
    """Draw accuracy over a numeric field (log axis): seeds as dots, means as lines, one panel per encoder."""
    numeric = [name for name in FIELDS if name not in ("encoder", "seed")]
    if field not in numeric:
        raise CourseError(f"Runs have no numeric field {field!r}. Choose one of: {', '.join(numeric)}.")
    runs, _ = _read(results, apart={field, "encoder"})
    if (runs[field] <= 0).any():
        raise CourseError(f"This axis is logarithmic and has no 0: leave out the runs whose {field} is 0.")
    panels = list(runs.groupby("encoder", sort=False))
    figure, axes = open_figure(len(panels), *((6.6, 3.4) if len(panels) == 1 else (4.2, 4)))
    handles = {}
    for axis, (encoder, here) in zip(axes, panels, strict=True):
        for (policy, variant), group in here.groupby(["policy", "variant"], sort=False):
            _, colour, marker = LOOKS[policy]
            rank = list(runs.loc[runs["policy"] == policy, "variant"].unique()).index(variant)
            colour = 1 - (1 - np.array(to_rgb(colour))) * max(0.25, 0.6**rank)  # Paler, variant by variant.
            means = group.groupby(field)[[MEASURED, "train_accuracy"]].mean()
            axis.plot(group[field], group[MEASURED], marker, color=colour, ms=7, alpha=0.7)
            axis.plot(means["train_accuracy"], f"--{marker}", color=colour, lw=1.3, ms=4, mfc="white")
            axis.plot(means[MEASURED], color=colour, lw=2)
            (handles[variant],) = axis.plot([], [], marker=marker, color=colour, lw=2)
        ticks = sorted(here[field].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [format_rate(tick) if field == "learning_rate" else f"{tick:,g}" for tick in ticks])
        axis.tick_params(axis="x", rotation=45 * (len(ticks) > 6))
        axis.minorticks_off()
        axis.grid(axis="y", color=PALE)
        steps = f", {here['steps'].iloc[0]:,} steps each" if field == "reviews" and here["steps"].nunique() == 1 else ""
        axis.set_xlabel(f"{FIELDS[field][0]} (log scale){steps}")
        if len(panels) > 1:
            axis.set_title(FIELDS["encoder"][1](encoder))
        (handles["on trained reviews"],) = axis.plot([], [], "--", color=GREY, lw=1.3)
        handles["guessing"] = axis.axhline(0.5, color=GREY, lw=1, ls=":")
        if field == "learning_rate":
            limits, rates = axis.get_xlim(), Settings().learning_rates
            handles["the assignment's grid"] = axis.axvspan(min(rates), max(rates), color="#efefef", zorder=0)
            axis.set_xlim(limits)
    axes[0].set_ylabel(f"accuracy (validation: n = {_measured_on(runs)})")
    put_legend(axes[0], handles=handles.values(), labels=handles.keys(), ncols=2 if len(panels) == 1 else 1)
    return finish(figure, describe_finding(results), describe_source(results, "dots: the seeds"))


def describe_finding(results: dict[str, Any]) -> str:
    """One sentence with the main figures, whatever the outcome; the extremes where nothing else can be compared."""
    runs, changes = _read(results)
    rates, others = "learning_rate" in changes, {*changes} - {"learning_rate"}

    def mean(rows: list[str], columns: str) -> pd.DataFrame:
        return runs.pivot_table(MEASURED, rows, columns, sort=False)

    if {"full", "bitfit+head"} <= {*runs["policy"]} and others in ({"encoder"}, {"reviews"}):
        (field,) = others
        best = mean([field, "learning_rate"], "policy").groupby(field, sort=False).max()
        gap = (best["full"] - best["bitfit+head"]).iloc[[0, -1]]
        if gap.notna().all():
            article, rate = "the " * (field == "encoder"), ", each at its best rate" * rates
            parts = [f"{_points(value)} with {article}{FIELDS[field][1](level)}" for level, value in gap.items()]
            return f"Full fine-tuning against BitFit + classifier{rate}: {', '.join(parts)}"
    if others == {"epochs"}:
        table = mean(["policy", "learning_rate"], "epochs")
        few, many = table.columns.min(), table.columns.max()
        if table.notna().all(axis=None):
            change = (table[many] - table[few]).groupby("policy", sort=False).mean()
            parts = [f"{LOOKS[policy][0]} by {_points(value)}" for policy, value in change.items()]
            rate = " (mean of the rates)" * rates
            return f"{many:g} epochs instead of {few:g} change {' and '.join(parts)}{rate}"
    if changes == ["learning_rate"]:
        table = mean(["policy"], "learning_rate")
        if table.nunique(axis=1).min() > 1:  # With a single rate, or equal ones, there is no best one.
            best = {policy: map(format_rate, row.index[row == row.max()]) for policy, row in table.iterrows()}
            parts = [f"{LOOKS[policy][0]} is best at {' or '.join(tried)}" for policy, tried in best.items()]
            return f"{' and '.join(parts)}; the grid ends at {format_rate(max(Settings().learning_rates))}"
    plain = runs[runs["head_scale"] == 1].groupby("policy")[MEASURED].mean()
    if {"bitfit", "bitfit+head", "head"} <= {*plain.index} and {*changes} <= {"head_scale"}:
        change = _points(plain["bitfit+head"] - plain["bitfit"])
        alone = f"the classifier alone reaches {plain['head']:.3f}"
        return f"Training the classifier too changes BitFit by {change}; {alone}"
    means = runs.groupby("variant", sort=False)[MEASURED].mean().sort_values(ascending=False, kind="stable")
    names, seeds = [f"{name} {value:.3f}" for name, value in means.items()], runs[MEASURED]
    if len(names) == 1 and len(seeds) > 1:
        return f"{names[0]} ± {seeds.std():.3f} over {len(seeds)} seeds, from {seeds.min():.3f} to {seeds.max():.3f}"
    return ", ".join(names) if len(names) <= 3 else f"From {names[-1]} to {names[0]}"


def _read(results: dict[str, Any], apart: Collection[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """A lab's runs, each with its `variant`: the policy and what the lab varies, except `apart`; and what it varies."""
    runs, changes = read_lab(results)
    fields = [name for name in changes if name not in apart]
    names = [", ".join([LOOKS[run["policy"]][0], *list_values(run, fields)]) for run in runs.to_dict("records")]
    return runs.assign(variant=names), changes


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _measured_on(runs: pd.DataFrame) -> str:
    return " or ".join(f"{count:,}" for count in sorted({*runs["validation"]}))
