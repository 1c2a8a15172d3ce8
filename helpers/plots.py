"""Figures of a sweep, each made from its results and naming the profile, model and data that made it."""

import io
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from helpers.report import format_rate
from helpers.results import published as published_figures
from helpers.settings import CourseError

# Colours that the common kinds of colour blindness keep apart (Okabe and Ito); a marker says the same again.
LOOKS = {
    "full": ("full fine-tuning", "#0072b2", "o"),
    "bitfit": ("BitFit", "#d55e00", "s"),
    "bitfit+head": ("BitFit + classifier", "#009e73", "^"),
    "head": ("classifier only", "#cc79a7", "D"),
    "bitfit-qi+head": ("BitFit (query and MLP) + classifier", "#56b4e9", "v"),
}
GREY = "#595959"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "axes.titlesize": 11}


def plot_grid(results: dict[str, Any]) -> Figure:
    """Draw each policy's validation accuracy over the grid, all on one colour scale, the chosen cells outlined.

    A cell that was stopped early (`--prune`) says after which epoch.
    """
    policies = results["policies"]
    values = [cell["validation_accuracy"] for policy in policies.values() for cell in policy["cells"]]
    epochs = results["provenance"]["recipe"]["epochs"]
    figure, axes = _panels(policies, width=4.4, height=3.4)
    image = None
    for axis, (name, policy) in zip(axes, policies.items(), strict=True):
        rates = list(dict.fromkeys(cell["learning_rate"] for cell in policy["cells"]))
        sizes = list(dict.fromkeys(cell["batch_size"] for cell in policy["cells"]))
        grid = np.full((len(rates), len(sizes)), np.nan)
        for cell in policy["cells"]:
            place = rates.index(cell["learning_rate"]), sizes.index(cell["batch_size"])
            grid[place] = cell["validation_accuracy"]
            red, green, blue, _ = plt.get_cmap("cividis")(plt.Normalize(min(values), max(values))(grid[place]))
            colour = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"
            stopped = f"\nepoch {len(cell['epochs'])}" if len(cell["epochs"]) < epochs else ""
            axis.text(*place[::-1], f"{grid[place]:.3f}{stopped}", ha="center", va="center", color=colour, fontsize=9)
        image = axis.imshow(grid, cmap="cividis", vmin=min(values), vmax=max(values), aspect="auto")
        best = sizes.index(policy["best"]["batch_size"]), rates.index(policy["best"]["learning_rate"])
        for colour, line in (("white", 5), ("#d55e00", 2.5)):
            axis.add_patch(Rectangle((best[0] - 0.46, best[1] - 0.43), 0.92, 0.86, fill=False, ec=colour, lw=line))
        axis.set(xlabel="batch size (reviews)", ylabel="learning rate")
        axis.set_title(f"{LOOKS[name][0]} ({policy['trainable_parameters']:,} trained)")
        axis.set_xticks(range(len(sizes)), sizes)
        axis.set_yticks(range(len(rates)), [format_rate(rate) for rate in rates])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=f"validation accuracy (n = {_count(results, 'validation')})", shrink=0.9)
    return finish(figure, _grid_message(policies), describe_source(results, "outlined: the chosen cell"))


def plot_learning_curves(results: dict[str, Any]) -> Figure:
    """Draw the validation accuracy after every epoch: all cells thin, the chosen cell thick."""
    policies = results["policies"]
    figure, axes = _panels(policies, width=4.2, height=3.6, sharey=True)
    last = []
    for axis, (name, policy) in zip(axes, policies.items(), strict=True):
        label, colour, marker = LOOKS[name]
        best = _best_cell(policy)
        for cell in [other for other in policy["cells"] if other is not best] + [best]:
            epochs, accuracies = zip(
                *((row["epoch"], row["validation_accuracy"]) for row in cell["epochs"]), strict=True
            )
            thick = {"lw": 3, "marker": marker, "color": colour, "zorder": 3, "label": f"chosen: {_describe(cell)}"}
            axis.plot(epochs, accuracies, **(thick if cell is best else {"lw": 0.8, "color": "#8c8c8c"}))
        axis.plot([], [], lw=0.8, color="#8c8c8c", label=f"the other {len(policy['cells']) - 1} cells")
        axis.set(xlabel="epoch", ylabel=f"validation accuracy (n = {_count(results, 'validation')})", title=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.2), frameon=False, fontsize=9)
        last.append(f"{label} {policy['best']['validation_accuracy']:.3f}")
    return finish(figure, f"After the last epoch of the chosen cells: {', '.join(last)}", describe_source(results))


def plot_accuracy_against_parameters(results: dict[str, Any], published: dict[str, Any] | None = None) -> Figure:
    """Draw test accuracy over trained parameters (log axis); published points, of another model and data, hollow."""
    policies = results["policies"]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.6, 4.6), layout="constrained")
    axis.set(xscale="log", xlabel="trained parameters (log scale)", ylabel="test accuracy")
    handles = []
    for name, policy in policies.items():
        label, colour, marker = LOOKS[name]
        accuracy, n = policy["test"]["accuracy"], policy["test"]["n"]
        error = 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5
        look = {"fmt": marker, "color": colour, "ms": 10, "capsize": 4, "label": f"{label}: {accuracy:.3f} (n = {n:,})"}
        handles.append(axis.errorbar(policy["trainable_parameters"], accuracy, error, **look))
    for name, known in (published or {"policies": {}})["policies"].items():
        accuracy, n = known["test"]["accuracy"], known["test"]["n"]
        look = {"mfc": "white", "mec": GREY, "mew": 1.8, "ms": 10, "ls": ""}
        look["label"] = f"published, {LOOKS[name][0]}: {accuracy:.3f} (n = {n:,})"
        handles += axis.plot(known["trainable_parameters"], accuracy, LOOKS[name][2], **look)
    handles.append(axis.axhline(0.5, color=GREY, lw=1, ls=":", label="guessing: 0.5"))
    low, high = axis.get_xlim()
    axis.set_xlim(low / 2, high * 2)
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False, fontsize=9)
    note = "bars: 95% interval from the size of the test set alone, one training run a policy"
    if published:
        note += "; hollow: the published answer sheet, bert-tiny on IMDb, not measured here"
    return finish(figure, _gap_message(policies), describe_source(results, note))


def plot_bias_movement(results: dict[str, Any]) -> Figure:
    """Draw how far each bias tensor went from its start (mean absolute difference), in the network's order."""
    policies = results["policies"]
    figure = draw_movement({name: pd.DataFrame([policy["test"]["bias_movement"]]) for name, policy in policies.items()})
    cells = "; ".join(f"{LOOKS[name][0]}: {_describe(policy['best'])}" for name, policy in policies.items())
    return finish(figure, _movement_message(policies), describe_source(results, cells))


def draw_movement(moved: dict[str, pd.DataFrame]) -> Figure:
    """Draw one dot for every policy, bias tensor (column) and run (row)."""
    names = list(next(iter(moved.values())))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.6, 1.9 + 0.26 * len(names)), layout="constrained")
    for name, runs in moved.items():
        label, colour, marker = LOOKS[name]
        rows = np.tile(np.arange(len(names)), len(runs))
        way = runs.reindex(columns=names, fill_value=0).to_numpy().ravel()
        axis.plot(way, rows, marker, color=colour, label=label, clip_on=False, zorder=3)
    parts = [_split_name(tensor) for tensor in names]
    axis.set_yticks(range(len(names)), [f"{layer} · {tensor}" for layer, tensor in parts])
    for row in range(1, len(names)):
        if parts[row][0] != parts[row - 1][0]:
            axis.axhline(row - 0.5, color="#bfbfbf", lw=0.8)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set(xlabel="mean absolute change of a bias term (no unit)")
    axis.grid(axis="x", color="#e0e0e0")
    axis.set_axisbelow(True)
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, frameon=False)
    return figure


def plot_word_effects(texts: dict[str, pd.Series], source: str, most: int = 10) -> Figure:
    """Draw, for each text, the words that matter most (see `tokens.measure_word_effects`), in the text's order.

    The keys of `texts` are the panels' titles; `source`, which becomes the caption, says what was measured.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(texts), figsize=(4.6 * len(texts), 1.8 + 0.32 * most), layout="constrained", squeeze=False
        )
    strongest = []
    for axis, (title, effects) in zip(axes.flat, texts.items(), strict=True):
        chosen = sorted(effects.abs().argsort()[::-1][:most])
        shown = effects.iloc[chosen]
        rows = range(len(shown))
        axis.barh(rows, shown, color=GREY)  # The colours of LOOKS mean policies.
        axis.set_yticks(rows, shown.index)
        axis.invert_yaxis()
        axis.axvline(0, color="black", lw=0.8)
        axis.set(xlabel="change of the log-odds of positive", title=textwrap.fill(title, 44))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        strongest.append(effects.index[effects.abs().argmax()])
    words = " and ".join(f"“{word}”" for word in dict.fromkeys(strongest))
    note = (
        f"the {most} words with the largest effect, in reading order; right: towards positive, left: towards negative"
    )
    return finish(figure, f"The words that weighed most: {words}", f"{source} · {note}")


def plot_schedule(recipe: dict[str, Any], examples: int, source: str) -> Figure:
    """Draw the learning rate, which falls linearly to 0 without warm-up, by epoch and by optimizer step.

    `recipe` has the grid and the epochs (`Settings.recipe()`), `examples` counts the training reviews, and `source`,
    which becomes the caption, says whose they are.
    """
    epochs, rates, sizes = recipe["epochs"], recipe["learning_rates"], recipe["batch_sizes"]
    colours = plt.get_cmap("cividis")(np.linspace(0, 0.85, max(len(rates), len(sizes))))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.8), layout="constrained", sharey=True)
    for rate, colour in zip(rates, colours, strict=False):
        left.plot([0, epochs], [rate, 0], color=colour, lw=2, label=format_rate(rate))
    for size, colour, dash in zip(sizes, colours, _dashes(), strict=False):
        right.plot([0, count_steps(examples, size) * epochs], [max(rates), 0], dash, color=colour, lw=2, label=size)
    left.set(xlabel="epoch", ylabel="learning rate", title="any batch size", ylim=(0, None), xlim=(0, epochs))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(
        xlabel="optimizer step",
        title=f"starting at {format_rate(max(rates))}, n = {examples:,} reviews",
        xlim=(0, None),
    )
    left.legend(title="learning rate", frameon=False)
    right.legend(title="batch size", frameon=False)
    ratio = count_steps(examples, min(sizes)) / count_steps(examples, max(sizes))
    title = f"The rate falls linearly to 0; batches of {min(sizes)} take {ratio:.1f} times the steps of {max(sizes)}"
    return finish(figure, title, source)


def save_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write all figures into the folder as PNG files; raises CourseError where that fails."""
    data = results["provenance"]["data"]
    figures = {
        "grid": plot_grid(results),
        "learning_curves": plot_learning_curves(results),
        "accuracy_against_parameters": plot_accuracy_against_parameters(results, published_figures()),
        "bias_movement": plot_bias_movement(results),
        "schedule": plot_schedule(results["provenance"]["recipe"], data["train"], describe_source(results)),
    }
    return [_save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def count_steps(examples: int, batch_size: int) -> int:
    """Optimizer steps in one epoch; the last batch may be smaller."""
    return -(-examples // batch_size)


def _save(figure: Figure, path: Path) -> Path:
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    picture = io.BytesIO()
    figure.set_dpi(150)
    figure.draw_without_rendering()  # The first layout changes the ticks, and these the layout.
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(picture.getvalue())
        os.replace(beside, path)
    except OSError as error:
        raise CourseError(
            f"Could not write the figure {path}: {error.strerror}. The results are not affected."
        ) from error
    return path


def _panels(policies: Iterable[str], width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """One axes a policy, two in a row; width and height of one in inches."""
    names = list(policies)
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            squeeze=False,
            layout="constrained",
            figsize=(width * columns + 1, height * rows + 1),
            **options,
        )
    for spare in axes.flat[len(names) :]:
        spare.remove()
    return figure, list(axes.flat[: len(names)])


def finish(figure: Figure, title: str, caption: str) -> Figure:
    """Add the message and the caption, both folded to the figure's width."""
    width = figure.get_figwidth()
    figure.suptitle(textwrap.fill(title, int(width * 10)), fontsize=12, fontweight="bold")
    figure.supxlabel(textwrap.fill(caption, int(width * 14.5)), fontsize=8, color=GREY, x=0.01, ha="left")
    return figure


def describe_source(results: dict[str, Any], note: str = "", seeds: bool = True) -> str:
    """Say what made the figures; with `seeds`, also which seed and how many training reviews."""
    run = results["provenance"]
    parts = [f"Profile {run['profile']}", f"model {run['model']['name']}", f"data {run['data']['name']}"]
    if run["profile"] == "quick":
        parts[0] += ", a stand-in for bert-tiny on IMDb"
    if seeds:
        parts += [f"{_count(results, 'train')} training reviews", f"seed {run['recipe']['seed']}"]
    return " · ".join([*parts, *([note] if note else [])])


def _count(results: dict[str, Any], split: str) -> str:
    return f"{results['provenance']['data'][split]:,}"


def _best_cell(policy: dict[str, Any]) -> dict[str, Any]:
    keys = ("learning_rate", "batch_size")
    return next(cell for cell in policy["cells"] if all(cell[key] == policy["best"][key] for key in keys))


def _describe(cell: dict[str, Any]) -> str:
    return f"rate {format_rate(cell['learning_rate'])}, batch {cell['batch_size']}"


def _dashes() -> list[str]:
    return ["-", "--", "-.", ":", "-"]


def _split_name(tensor: str) -> tuple[str, str]:
    """Split the name of a bias tensor into its layer and its place there."""
    path = tensor.removeprefix("bert.").removesuffix(".bias").split(".")
    if path[:2] == ["encoder", "layer"]:
        return f"layer {int(path[2]) + 1}", " ".join(part for part in path[3:] if part != "self")
    return path[0], " ".join(path[1:])


def _grid_message(policies: dict[str, Any]) -> str:
    if not {"full", "bitfit"} <= set(policies):
        return "Validation accuracy of every cell of the grid"
    pairs = zip(policies["full"]["cells"], policies["bitfit"]["cells"], strict=True)
    ahead = sum(full["validation_accuracy"] > bitfit["validation_accuracy"] for full, bitfit in pairs)
    return f"Full fine-tuning is ahead of BitFit in {ahead} of {len(policies['full']['cells'])} cells"


def _gap_message(policies: dict[str, Any]) -> str:
    if not {"full", "bitfit"} <= set(policies):
        return "Test accuracy against trained parameters"
    full, bitfit = policies["full"], policies["bitfit"]
    share = bitfit["trainable_parameters"] / full["trainable_parameters"]
    points = 100 * (bitfit["test"]["accuracy"] - full["test"]["accuracy"])
    way = "lower" if points < 0 else "higher"
    return f"BitFit trains {share:.2%} of the parameters and tests {abs(points):.1f} points {way}"


def _movement_message(policies: dict[str, Any]) -> str:
    if not {"full", "bitfit"} <= set(policies):
        return "How far each bias tensor moved"
    full, bitfit = (np.mean(list(policies[name]["test"]["bias_movement"].values())) for name in ("full", "bitfit"))
    return f"BitFit moves its biases {bitfit / full:.1f} times as far as full fine-tuning (mean)"
