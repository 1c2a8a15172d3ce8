"""Figures of a sweep, each made from its results and naming the profile, model and data that made it."""

import base64
import itertools
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from helpers.figures import GREY, LOOKS, PALE, draw_png, finish, open_figure, save_figure
from helpers.progress import interact
from helpers.report import describe_fields, describe_source, format_rate, name_tensor, tested_run
from helpers.results import best_run, list_policies, published, select_runs
from helpers.settings import CourseError

DASHES = ("-", "--", "-.", ":")
CELL, MEASURED = ["learning_rate", "batch_size"], "validation_accuracy"


def plot_grid(results: dict[str, Any]) -> Figure:
    """Draw each policy's validation accuracy over the grid, all on one colour scale, the chosen cells outlined.

    A cell that was stopped early (`--prune`) says after which epoch.
    """
    runs = pd.DataFrame(results["runs"])
    runs["trained"] = [run["history"][-1]["epoch"] for run in results["runs"]]
    scale = plt.Normalize(runs["validation_accuracy"].min(), runs["validation_accuracy"].max())
    figure, axes = open_figure(len(list_policies(results)), 4.4, 3.4)
    for axis, (policy, group) in zip(axes, runs.groupby("policy", sort=False), strict=True):
        grid = group.pivot(index=CELL[0], columns=CELL[1], values=MEASURED).sort_index(ascending=False)
        image = axis.imshow(grid, cmap="cividis", norm=scale, aspect="auto")
        for run in group.itertuples():
            place = grid.columns.get_loc(run.batch_size), grid.index.get_loc(run.learning_rate)
            colour = "black" if scale(run.validation_accuracy) > 0.5 else "white"
            stopped = f"\nepoch {run.trained:g}" if run.trained < run.epochs else ""
            look = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
            axis.text(*place, f"{run.validation_accuracy:.3f}{stopped}", **look)
        if best := best_run(results, policy):
            column, row = grid.columns.get_loc(best["batch_size"]), grid.index.get_loc(best["learning_rate"])
            for colour, line in (("white", 5), ("#d55e00", 2.5)):
                axis.add_patch(Rectangle((column - 0.46, row - 0.43), 0.92, 0.86, fill=False, ec=colour, lw=line))
        axis.set(xlabel="batch size (reviews)", ylabel="learning rate")
        axis.set_title(f"{LOOKS[policy][0]} ({group['trainable_parameters'].iloc[0]:,} trained)")
        axis.set_xticks(range(len(grid.columns)), grid.columns)
        axis.set_yticks(range(len(grid.index)), [format_rate(rate) for rate in grid.index])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=_label(results), shrink=0.9)
    title, accuracy = "Validation accuracy of every cell", runs.pivot(index=CELL, columns="policy", values=MEASURED)
    if {"full", "bitfit"} <= set(accuracy):
        gap = (accuracy["full"] - accuracy["bitfit"]).dropna()
        title = f"Full fine-tuning is ahead of BitFit in {(gap > 0).sum()} of {len(gap)} cells"
    return finish(figure, title, describe_source(results, "outlined: the chosen cell"))


def plot_learning_curves(results: dict[str, Any]) -> Figure:
    """Draw the validation accuracy after every epoch: all cells thin, the chosen cell thick."""
    last, (figure, axes) = [], open_figure(len(list_policies(results)), 4.2, 3.6)
    for axis, policy in zip(axes, list_policies(results), strict=True):
        best = best_run(results, policy)
        others = _draw_histories(axis, results, best)
        axis.plot([], [], lw=0.8, color="#8c8c8c", label=f"the other {others} cells")
        axis.lines[0].set_label(f"chosen: {describe_fields(best, CELL)}")
        axis.set_title(LOOKS[policy][0])
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.2), frameon=False, fontsize=9)
        last.append(f"{LOOKS[policy][0]} {best['validation_accuracy']:.3f}")
    return finish(figure, f"After the last epoch of the chosen cells: {', '.join(last)}", describe_source(results))


def plot_cell(results: dict[str, Any], policy: str, learning_rate: float, batch_size: int) -> Figure:
    """Draw the validation accuracy of one cell after every epoch, above that of the policy's other cells (thin).

    The axis spans all policies' accuracies. Raises CourseError where the results have no such cell.
    """
    runs = select_runs(results, policy=policy, learning_rate=learning_rate, batch_size=batch_size)
    if not runs:
        raise CourseError(
            f"These results have no run of {policy}, {learning_rate}, {batch_size}: choose one of theirs."
        )
    figure, (axis,) = open_figure(1, 5.4, 3)
    _draw_histories(axis, results, runs[0])
    every = [row["validation_accuracy"] for run in results["runs"] for row in run["history"]]
    margin = 0.05 * (max(every) - min(every)) or 0.01
    axis.set_ylim(min(every) - margin, max(every) + margin)
    title = f"{LOOKS[policy][0]}, {describe_fields(runs[0], CELL)}: {runs[0]['validation_accuracy']:.3f}"
    return finish(figure, title, describe_source(results, "thin: the policy's other cells"))


def explore_grid(results: dict[str, Any]) -> None:
    """Show `plot_cell` below a choice of policy, learning rate and batch size; without a kernel, its first figure."""

    def show(policy: str, learning_rate: float, batch_size: int) -> None:
        plot_cell(results, policy, learning_rate, batch_size)
        plt.show()

    rates = sorted({run["learning_rate"] for run in results["runs"]}, reverse=True)
    sizes = sorted({run["batch_size"] for run in results["runs"]})
    choices = {"policy": list_policies(results), "learning_rate": [(format_rate(rate), rate) for rate in rates]}
    first = plot_cell(results, choices["policy"][0], rates[0], sizes[0])
    static = {"text/plain": first.get_suptitle(), "image/png": base64.b64encode(draw_png(first, 100)).decode()}
    interact(show, static, choices | {"batch_size": sizes}, height="420px")


def plot_accuracy_against_parameters(results: dict[str, Any], published: dict[str, Any] | None = None) -> Figure:
    """Draw test accuracy over trained parameters (log axis); published points, of another model and data, hollow."""
    figure, (axis,) = open_figure(1, 6.6, 3.6)
    axis.set(xscale="log", xlabel="trained parameters (log scale)", ylabel="test accuracy")
    handles = []
    # To the right by a marker and a half: a published point has the parameters of ours and often nearly its accuracy.
    beside = axis.transData + ScaledTranslation(15 / 72, 0, figure.dpi_scale_trans)
    for data, prefix in ((results, ""), (published or {"runs": []}, "published, ")):
        for policy in list_policies(data):
            (label, colour, marker), run = LOOKS[policy], tested_run(data, policy)
            accuracy, n, trained = run["test"]["accuracy"], run["test"]["n"], run["trainable_parameters"]
            hollow = {"mfc": "white", "mew": 1.8, "transform": beside} if prefix else {}
            look = {"color": colour, "ms": 10, "ls": "", "label": f"{prefix}{label}: {accuracy:.3f} (n = {n:,})"}
            handles += axis.plot(trained, accuracy, marker, **look, **hollow)
            if not prefix:
                axis.errorbar(trained, accuracy, 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5, color=colour, capsize=4)
    handles.append(axis.axhline(0.5, color=GREY, lw=1, ls=":", label="guessing: 0.5"))
    low, high = axis.get_xlim()
    axis.set_xlim(low / 2, high * 2)
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False, fontsize=9)
    note = "bars: 95% interval from the size of the test set alone, one training run a policy"
    note += " · hollow, moved to the right: as published, bert-tiny on IMDb, not measured here" if published else ""
    title = "Test accuracy against trained parameters"
    if {"full", "bitfit"} <= set(list_policies(results)):
        full, bitfit = tested_run(results, "full"), tested_run(results, "bitfit")
        share = bitfit["trainable_parameters"] / full["trainable_parameters"]
        points = 100 * (bitfit["test"]["accuracy"] - full["test"]["accuracy"])
        way = "lower" if points < 0 else "higher"
        title = f"BitFit trains {share:.2%} of the parameters and tests {abs(points):.1f} points {way}"
    return finish(figure, title, describe_source(results, note))


def plot_bias_movement(results: dict[str, Any]) -> Figure:
    """Draw how far each bias tensor went from its start: of a sweep's tested runs, or of a lab's at plain settings.

    A dot is a run; the rows follow the network. Raises CourseError where no run moved a bias.
    """
    moved: dict[str, list[dict[str, float]]] = {}
    for run in results["runs"]:
        way = run.get("bias_movement") or run.get("test", {}).get("bias_movement", {})
        if any(way.values()) and run["head_scale"] == 1 and run["encoder"] == "checkpoint":
            moved.setdefault(run["policy"], []).append(way)
    if not moved:
        raise CourseError("No run here moved a bias of the checkpoint. Train one with the policy bitfit or full.")
    tables = {policy: pd.DataFrame(rows) for policy, rows in moved.items()}
    mean = pd.DataFrame({policy: table.mean() for policy, table in tables.items()}).fillna(0)
    names = [name_tensor(tensor) for tensor in mean.index]
    figure, (axis,) = open_figure(1, 6.6, 0.9 + 0.26 * len(names))
    for policy, table in tables.items():
        label, colour, marker = LOOKS[policy]
        places = np.tile([mean.index.get_loc(tensor) for tensor in table], len(table))
        look = {"color": colour, "label": label, "clip_on": False, "zorder": 3, "alpha": 0.8}
        axis.plot(table.to_numpy().ravel(), places, marker, **look)
    axis.set_yticks(range(len(names)), [" · ".join(filter(None, name)) for name in names])
    for row, ((above, _), (below, _)) in enumerate(itertools.pairwise(names)):
        if above != below:
            axis.axhline(row + 0.5, color="#bfbfbf", lw=0.8)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("mean absolute change of a bias term (no unit)")
    axis.grid(axis="x", color=PALE)
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, frameon=False)
    title = f"Most moved: {' · '.join(name_tensor(mean.max(axis=1).idxmax()))}"
    if {"full", "bitfit"} <= set(mean):
        times = mean["bitfit"].mean() / mean["full"].mean()
        title = f"BitFit moves its biases {times:.1f} times as far as full fine-tuning (mean)"
    note = f"{len(names)} bias tensors: the classifier's is left out, since it is not pre-trained · a dot is a run"
    return finish(figure, title, describe_source(results, note))


def plot_word_effects(texts: dict[str, pd.Series], source: str, most: int = 10) -> Figure:
    """Draw, for each text, the words that matter most (see `tokens.measure_word_effects`), in the text's order.

    The keys of `texts` are the panels' titles; `source`, which becomes the caption, says what was measured.
    """
    strongest, (figure, axes) = [], open_figure(len(texts), 4.2, 0.8 + 0.32 * most, sharey=False)
    for axis, (title, effects) in zip(axes, texts.items(), strict=True):
        shown = effects.iloc[sorted(effects.abs().argsort()[::-1][:most])]
        axis.barh(range(len(shown)), shown, color=GREY)  # The colours of LOOKS mean policies.
        axis.set_yticks(range(len(shown)), shown.index)
        axis.invert_yaxis()
        axis.axvline(0, color="black", lw=0.8)
        axis.set(xlabel="change of the log-odds of positive", title=textwrap.fill(title, 44))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        strongest.append(effects.index[effects.abs().argmax()])
    words = " and ".join(f"“{word}”" for word in dict.fromkeys(strongest))
    note = f"the {most} words with the largest effect, in reading order; to the right: towards positive"
    return finish(figure, f"The words that weighed most: {words}", f"{source} · {note}")


def plot_schedule(recipe: dict[str, Any], examples: int, source: str) -> Figure:
    """Draw the learning rate, which falls linearly to 0 without warm-up, by epoch and by optimizer step.

    `recipe` has the grid and the epochs (`Settings.recipe()`), `examples` counts the training reviews, and `source`,
    which becomes the caption, says whose they are.
    """
    epochs, rates, sizes = recipe["epochs"], recipe["learning_rates"], recipe["batch_sizes"]
    colours = plt.get_cmap("cividis")(np.linspace(0, 0.85, max(len(rates), len(sizes))))
    looks = [
        {"color": colour, "ls": dash, "lw": 2} for colour, dash in zip(colours, itertools.cycle(DASHES), strict=False)
    ]
    figure, (left, right) = open_figure(2, 3.9, 2.8)
    for rate, look in zip(rates, looks, strict=False):
        left.plot([0, epochs], [rate, 0], label=format_rate(rate), **look)
    for size, look in zip(sizes, looks, strict=False):
        right.plot([0, count_steps(examples, size) * epochs], [max(rates), 0], label=size, **look)
    left.set(xlabel="epoch", ylabel="learning rate", title="any batch size", ylim=(0, None), xlim=(0, epochs))
    left.yaxis.set_major_formatter(lambda rate, place: format_rate(rate) if rate else "0")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"starting at {format_rate(max(rates))}, n = {examples:,} reviews"
    right.set(xlabel="optimizer step", title=title, xlim=(0, None))
    left.legend(title="learning rate", frameon=False)
    right.legend(title="batch size", frameon=False)
    ratio = count_steps(examples, min(sizes)) / count_steps(examples, max(sizes))
    title = f"The rate falls linearly to 0; batches of {min(sizes)} take {ratio:.1f} times the steps of {max(sizes)}"
    return finish(figure, title, source)


def save_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write all figures into the folder as PNG files; raises CourseError where that fails."""
    run = results["provenance"]
    figures = {
        "grid": plot_grid(results),
        "learning_curves": plot_learning_curves(results),
        "accuracy_against_parameters": plot_accuracy_against_parameters(results, published()),
        "bias_movement": plot_bias_movement(results),
        "schedule": plot_schedule(run["recipe"], run["data"]["train"], describe_source(results)),
    }
    return [save_figure(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def count_steps(examples: int, batch_size: int) -> int:
    """Optimizer steps in one epoch; the last batch may be smaller."""
    return -(-examples // batch_size)


def _draw_histories(axis: Axes, results: dict[str, Any], chosen: dict[str, Any]) -> int:
    """Draw the chosen run thick, first in the axis, and its policy's other runs thin; returns how many these are."""
    _, colour, marker = LOOKS[chosen["policy"]]
    others = [run for run in select_runs(results, policy=chosen["policy"]) if run is not chosen]
    for run in [chosen, *others]:
        points = pd.DataFrame(run["history"])
        look = {"lw": 3, "marker": marker, "color": colour, "zorder": 3} if run is chosen else {}
        # A run that was stopped after its first epoch is a dot: a line would not be seen.
        thin = {"lw": 0.8, "color": "#8c8c8c", "marker": "." if len(points) == 1 else None}
        axis.plot(points["epoch"], points["validation_accuracy"], **(look or thin))
    axis.set(xlabel="epoch", ylabel=_label(results))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return len(others)


def _label(results: dict[str, Any]) -> str:
    return f"validation accuracy (n = {results['provenance']['data']['validation']:,})"
