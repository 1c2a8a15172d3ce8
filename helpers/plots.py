"""Figures of a sweep, each drawn from its results, and what all figures share: looks, size, legend, caption, PNG."""

import base64
import io
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

from helpers.progress import CELL, interact
from helpers.report import describe_source, format_rate, list_values, list_varied, name_tensor, tested_run
from helpers.results import best_run, is_whole, list_policies, published, reached, read_search, select_runs
from helpers.settings import CourseError, write_atomically

MEASURED = "validation_accuracy"
GREY, PALE = "#595959", "#e0e0e0"


class Looks(dict[str, tuple[str, str, str]]):
    """A name, colour and marker for each policy; grey for one that an instructor has added to `models.POLICIES`."""

    def __missing__(self, policy: str) -> tuple[str, str, str]:
        return policy, GREY, "X"


# Colours that remain distinct with the common kinds of colour blindness (Okabe and Ito), each with its own marker.
LOOKS = Looks(
    {
        "full": ("full fine-tuning", "#0072b2", "o"),
        "bitfit": ("BitFit", "#d55e00", "s"),
        "bitfit+head": ("BitFit + classifier", "#009e73", "^"),
        "head": ("classifier only", "#cc79a7", "D"),
        "bitfit-qi+head": ("BitFit (query and MLP) + classifier", "#56b4e9", "v"),
    }
)
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.titlesize": 11}


def open_figure(panels: int, width: float, height: float, share: str = "y") -> tuple[Figure, list[Axes]]:
    """A figure of panels, two per row, that share the axis x or y; width and height of one panel in inches."""
    columns, rows = min(2, panels), -(-panels // 2)
    size = {"figsize": (width * columns + 1, height * rows + 1), "layout": "constrained"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, squeeze=False, **{f"share{share}": True}, **size)
    for spare in axes.flat[panels:]:
        spare.remove()
    for axis in axes.flat[max(0, panels - columns) : panels]:  # Those with no panel below.
        axis.xaxis.set_tick_params(labelbottom=True)
    return figure, list(axes.flat[:panels])


def put_legend(axis: Axes, **options: Any) -> None:
    """Put the legend below the axis and its label, where it covers nothing."""
    below = axis.transAxes + ScaledTranslation(0, -0.42, axis.figure.dpi_scale_trans)  # inches
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below}
    axis.legend(**place, **{"frameon": False, "fontsize": 9, "ncols": 2} | options)


def finish(figure: Figure, title: str, caption: str) -> Figure:
    """Add title and caption, both wrapped to the figure's width; short parts of a caption are not broken."""
    title, width = title[:1].upper() + title[1:], figure.get_figwidth()
    look = {"parse_math": False}  # Two `$` in the name of a folder enclose no formula.
    parts = [part if len(part) > 40 else part.replace(" ", "\u00a0") for part in caption.split(" · ")]
    lines = -(-len(title) // int(width * 10.5))  # Lines of similar length: no single word is left over.
    figure.suptitle(textwrap.fill(title, len(title) // lines + 8 * (lines > 1)), fontsize=12, fontweight="bold", **look)
    text = textwrap.fill("\u00a0· ".join(parts), int(width * 16.5))
    figure.supxlabel(text, fontsize=8, color=GREY, x=0.01, ha="left", **look)
    return figure


def draw_png(figure: Figure, dpi: int) -> bytes:
    """Render the figure as a PNG file, and close it."""
    picture = io.BytesIO()
    figure.set_dpi(dpi)
    figure.draw_without_rendering()  # The first layout changes the ticks, which change the layout.
    figure.savefig(picture, format="png", dpi=dpi)
    plt.close(figure)
    return picture.getvalue()


def plot_grid(results: dict[str, Any]) -> Figure:
    """Draw each policy's validation accuracy over the grid, all on one colour scale, the chosen cells outlined.

    A cell that was stopped early (`--prune`) shows after which epoch.
    """
    table = pd.DataFrame(read_search(results)).pivot(index=CELL, columns="policy", values=MEASURED)
    scale, policies = plt.Normalize(table.min(axis=None), table.max(axis=None)), list_policies(results)
    figure, axes = open_figure(len(policies), 4.4, 3.4)
    for axis, policy in zip(axes, policies, strict=True):
        grid = table[policy].dropna().unstack().sort_index(ascending=False)
        image = axis.imshow(grid, cmap="cividis", norm=scale, aspect="auto")
        runs, best = select_runs(results, policy=policy), best_run(results, policy)
        for run in runs:
            column, row = grid.columns.get_loc(run["batch_size"]), grid.index.get_loc(run["learning_rate"])
            colour = "black" if scale(run[MEASURED]) > 0.47 else "white"  # The contrast is 4.5 or more.
            stopped = "" if is_whole(run) else f"\nepoch {reached(run):g}"
            look = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
            axis.text(column, row, f"{run[MEASURED]:.3f}{stopped}", **look)
            for colour, line in (("white", 5), ("#d55e00", 2.5)) if run is best else ():
                axis.add_patch(Rectangle((column - 0.46, row - 0.43), 0.92, 0.86, fill=False, ec=colour, lw=line))
        axis.set(xlabel="batch size (reviews)", ylabel="learning rate")
        axis.set_title(f"{LOOKS[policy][0]} ({runs[0]['trainable_parameters']:,} trained)")
        axis.set_xticks(range(len(grid.columns)), grid.columns)
        axis.set_yticks(range(len(grid.index)), map(format_rate, grid.index))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=_label(results), shrink=0.9)
    title = "Validation accuracy of every cell"
    if {"full", "bitfit"} <= {*table}:
        gap = (table["full"] - table["bitfit"]).dropna()
        title = f"Full fine-tuning is ahead of BitFit in {(gap > 0).sum()} of {len(gap)} cells"
        title += " (many stopped early)" * (not all(map(is_whole, results["runs"])))
    return finish(figure, title, describe_source(results, "outlined: the chosen cell"))


def plot_learning_curves(results: dict[str, Any], chosen: list[dict[str, Any]] | None = None) -> Figure:
    """Draw validation accuracy by epoch: one panel per chosen run (thick line), with the policy's other runs.

    `chosen` lists runs of the results, by default the best of each policy. The axis spans all policies' accuracies.
    """
    every = [row[MEASURED] for run in read_search(results) for row in run["history"]]
    chosen = chosen or [best_run(results, policy) for policy in list_policies(results)]
    figure, axes = open_figure(len(chosen), 4.2, 3.6)
    margin = 0.05 * (max(every) - min(every)) or 0.01
    axes[0].set_ylim(min(every) - margin, max(every) + margin)
    thin, ends = {"lw": 0.8, "color": "#8c8c8c"}, []
    for axis, best in zip(axes, chosen, strict=True):
        (label, colour, marker), cell = LOOKS[best["policy"]], ", ".join(list_values(best, CELL))
        ends.append(f"{label}, {cell}: {best[MEASURED]:.3f}")
        thick = {"lw": 3, "marker": marker, "color": colour, "label": f"chosen: {cell}", "zorder": 3}
        axis.plot(pd.DataFrame(best["history"]).set_index("epoch")[MEASURED], **thick)
        others = [run for run in select_runs(results, policy=best["policy"]) if run is not best]
        for run in others:
            # A run that was stopped after its first epoch is a dot: its line would be invisible.
            history = pd.DataFrame(run["history"]).set_index("epoch")
            axis.plot(history[MEASURED], **thin, marker="." if len(history) == 1 else None)
        if others:
            axis.plot([], [], **thin, label=f"the other {len(others)} cells")
        axis.set(xlabel="epoch", ylabel=_label(results), title=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        put_legend(axis, ncols=1)
    return finish(figure, "; ".join(ends), describe_source(results))


def explore_grid(results: dict[str, Any]) -> None:
    """Show a cell's learning curve below menus for policy, learning rate and batch size.

    Raises CourseError if the results have no such cell.
    """
    from ipywidgets import Dropdown

    def draw(**cell: Any) -> dict[str, str]:
        runs = select_runs(results, **cell)
        if not runs:
            raise CourseError(f"These results have no run of {', '.join(map(str, cell.values()))}: choose another.")
        figure = plot_learning_curves(results, runs[:1])
        return {"text/plain": figure.get_suptitle(), "image/png": base64.b64encode(draw_png(figure, 100)).decode()}

    def choose(what: str, options: list) -> Dropdown:
        return Dropdown(options=options, description=what, style={"description_width": "8em"})

    rates = sorted({run["learning_rate"] for run in results["runs"]}, reverse=True)
    interact(
        draw,
        height="480px",
        policy=choose("Policy", list_policies(results)),
        learning_rate=choose("Learning rate", [(format_rate(rate), rate) for rate in rates]),
        batch_size=choose("Batch size", sorted({run["batch_size"] for run in results["runs"]})),
    )


def plot_accuracy_against_parameters(results: dict[str, Any], published: dict[str, Any] | None = None) -> Figure:
    """Draw test accuracy over trained parameters (log axis); the published points (other model and data) are hollow."""
    figure, (axis,) = open_figure(1, 6.6, 3.6)
    axis.set(xscale="log", xlabel="trained parameters (log scale)", ylabel="test accuracy")
    handles = []
    # Shifted by a marker and a half: published points have the same parameters as ours and often similar accuracies.
    beside = axis.transData + ScaledTranslation(15 / 72, 0, figure.dpi_scale_trans)
    for data, prefix in ((results, ""), (published or {"runs": []}, "published, ")):
        for policy in list_policies(data):
            (label, colour, marker), run = LOOKS[policy], tested_run(data, policy)
            accuracy, n, trained = run["test"]["accuracy"], run["test"]["n"], run["trainable_parameters"]
            hollow = {"mfc": "white", "mew": 1.8, "transform": beside} if prefix else {}
            look = {"color": colour, "ms": 10, "ls": "", "label": f"{prefix}{label}: {accuracy:.3f} (n = {n:,})"}
            handles += axis.plot(trained, accuracy, marker, **look, **hollow)
            axis.update_datalim([(trained, accuracy)])  # The axis limits ignore shifted points.
            if not prefix:
                axis.errorbar(trained, accuracy, 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5, color=colour, capsize=4)
    handles.append(axis.axhline(0.5, color=GREY, lw=1, ls=":", label="guessing: 0.5"))
    axis.autoscale_view()
    low, high = axis.get_xlim()
    axis.set_xlim(low / 2, high * 2)
    put_legend(axis, handles=handles)
    note = "bars: 95% interval from the size of the test set alone, one training run for each policy"
    note += " · hollow, moved to the right: as published, bert-tiny on IMDb, not measured here" if published else ""
    title = "Test accuracy against trained parameters"
    if {"full", "bitfit"} <= set(list_policies(results)):
        full, bitfit = tested_run(results, "full"), tested_run(results, "bitfit")
        share = bitfit["trainable_parameters"] / full["trainable_parameters"]
        points = round(100 * (bitfit["test"]["accuracy"] - full["test"]["accuracy"]), 1)
        result = f"{abs(points)} points {'lower' if points < 0 else 'higher'}" if points else "equally well"
        title = f"BitFit trains {share:.2%} of the parameters and tests {result}"
    return finish(figure, title, describe_source(results, note))


def plot_bias_movement(results: dict[str, Any]) -> Figure:
    """Draw how far each bias tensor moved from its start, for a sweep's tested runs or a lab's unmodified ones.

    Each dot is a run; the rows follow the network. Raises CourseError if no run moved a bias.
    """
    runs = [run | run.get("test", {}) for run in select_runs(results, head_scale=1, encoder="checkpoint")]
    runs = [run for run in runs if any(run.get("bias_movement", {}).values())]
    if not runs:
        raise CourseError("No run here moved a bias of the checkpoint. Train one with the policy bitfit or full.")
    table = pd.DataFrame([run["bias_movement"] for run in runs], index=[run["policy"] for run in runs])
    mean = table.groupby(level=0, sort=False).mean().fillna(0)
    names = [name_tensor(tensor) for tensor in table]
    figure, (axis,) = open_figure(1, 6.6, 0.9 + 0.26 * len(names))
    for place, policy in enumerate(mean.index):
        label, colour, marker = LOOKS[policy]
        dots = table.loc[[policy]]
        shift = 0.22 * (place - (len(mean) - 1) / 2)  # Side by side, since all move the keys' biases equally little.
        rows = np.tile(np.arange(len(names)) + shift, len(dots))
        look = {"color": colour, "label": label, "clip_on": False, "zorder": 3, "alpha": 0.8}
        axis.plot(dots.to_numpy().ravel(), rows, marker, **look)
    axis.set_yticks(range(len(names)), names)
    for row, (above, below) in enumerate(itertools.pairwise(name.split(" · ")[0] for name in names)):
        if above != below:
            axis.axhline(row + 0.5, color="#bfbfbf", lw=0.8)
    axis.invert_yaxis()
    axis.set(xlim=(0, None), xlabel="mean absolute change of a bias term (no unit)")
    axis.grid(axis="x", color=PALE)
    put_legend(axis)
    title = f"Most moved: {name_tensor(mean.max().idxmax())}"
    # A search's chosen cells may differ, each being its policy's best; a lab's runs may differ only in the seed.
    alike = all("test" in run for run in runs) or not set(list_varied(runs)) - {"seed"}
    if {"full", "bitfit"} <= set(mean.index) and alike:
        times = mean.loc["bitfit"].mean() / mean.loc["full"].mean()
        title = f"BitFit moves its biases {times:.1f} times as far as full fine-tuning (mean)"
    note = f"{len(names)} bias tensors: the classifier's is left out, since it is not pre-trained · a dot is a run"
    return finish(figure, title, describe_source(results, note))


def save_plots(results: dict[str, Any], folder: Path) -> None:
    """Write all figures into the folder as PNG files; raises CourseError if that fails."""
    figures = {
        "grid": plot_grid(results),
        "learning_curves": plot_learning_curves(results),
        "accuracy_against_parameters": plot_accuracy_against_parameters(results, published()),
        "bias_movement": plot_bias_movement(results),
    }
    for name, figure in figures.items():
        write_atomically(Path(folder) / f"{name}.png", draw_png(figure, 150))


def _label(results: dict[str, Any]) -> str:
    return f"validation accuracy (n = {results['provenance']['data']['validation']:,})"
