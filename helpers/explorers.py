"""Explorers for a notebook: what a policy trains, and the learning curve of a cell of the grid."""

import io
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from helpers.plots import LOOKS, describe_source, finish
from helpers.report import format_rate


def count_by_group(model, policy: str) -> pd.DataFrame:
    """Count a BERT classifier's trained and frozen numbers: a row a group of tensors, and their sum."""
    from helpers.models import POLICIES, check_policy

    trains, counts = POLICIES[check_policy(policy)], {}
    for name, parameter in model.named_parameters():
        group = name.removeprefix("bert.").removeprefix("encoder.").split(".")
        group = f"layer {int(group[1]) + 1} {group[2]}" if group[0] == "layer" else group[0]
        kind = "biases" if name.endswith(".bias") else "weights"
        row = counts.setdefault(f"{group}, {kind}", {"trained": 0, "frozen": 0})
        row["trained" if trains(name) else "frozen"] += parameter.numel()
    table = pd.DataFrame(counts).T
    table.loc["sum"] = table.sum()
    return table


class PolicyExplorer(widgets.VBox):
    """A choice of a policy above the table of what it trains; `frame` is that table."""

    def __init__(self, model) -> None:
        from helpers.models import POLICIES

        self.model = model
        self.policy = widgets.Dropdown(options=list(POLICIES), value="bitfit", description="Policy")
        self.table = widgets.HTML()
        super().__init__([self.policy, self.table])
        self.policy.observe(self._update, names="value")
        self._update()

    def __repr__(self) -> str:
        return f"PolicyExplorer({self.policy.value!r})"

    def _update(self, change: object = None) -> None:
        self.frame = count_by_group(self.model, self.policy.value)
        style = self.frame.style.format("{:,}")
        self.table.value = style.set_properties(**{"text-align": "right", "padding-left": "1.5em"}).to_html()


def plot_cell(results: dict[str, Any], policy: str, learning_rate: float, batch_size: int) -> Figure:
    """Draw the validation accuracy of one cell after every epoch, above that of the policy's other cells (thin)."""
    label, colour, marker = LOOKS[policy]
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for cell in results["policies"][policy]["cells"]:
        chosen = (cell["learning_rate"], cell["batch_size"]) == (learning_rate, batch_size)
        look = {"color": colour, "marker": marker, "lw": 3, "zorder": 3} if chosen else {"color": "#bfbfbf", "lw": 0.8}
        epochs = [row["epoch"] for row in cell["epochs"]]
        axis.plot(epochs, [row["validation_accuracy"] for row in cell["epochs"]], **look)
        if chosen:
            axis.set_xticks(epochs)
            last = cell["validation_accuracy"]
    every = [
        row["validation_accuracy"]
        for other in results["policies"].values()
        for cell in other["cells"]
        for row in cell["epochs"]
    ]
    margin = 0.05 * (max(every) - min(every))
    n = f"{results['provenance']['data']['validation']:,}"
    axis.set(xlabel="epoch", ylabel=f"validation accuracy (n = {n})", ylim=(min(every) - margin, max(every) + margin))
    title = f"{label}, rate {format_rate(learning_rate)}, batch {batch_size}: {last:.3f}"
    return finish(figure, title, describe_source(results, "thin: the policy's other cells"))


class GridExplorer(widgets.VBox):
    """Choices of a policy, a learning rate and a batch size above the learning curve of that cell."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        cells = [cell for policy in results["policies"].values() for cell in policy["cells"]]
        rates = sorted({cell["learning_rate"] for cell in cells}, reverse=True)
        style = {"description_width": "8em"}
        self.policy = widgets.Dropdown(options=list(results["policies"]), description="Policy", style=style)
        options = [(format_rate(rate), rate) for rate in rates]
        self.rate = widgets.Dropdown(options=options, description="Learning rate", style=style)
        sizes = sorted({cell["batch_size"] for cell in cells})
        self.size = widgets.Dropdown(options=sizes, description="Batch size", style=style)
        self.message = widgets.HTML()
        self.picture = widgets.Image(
            format="png", layout={"width": "640px", "max_width": "100%", "margin": "0", "object_fit": "contain"}
        )
        self.inputs = (self.policy, self.rate, self.size)
        super().__init__([*self.inputs, self.message, self.picture])
        for control in self.inputs:
            control.observe(self._update, names="value")
        self._update()

    def __repr__(self) -> str:
        return f"GridExplorer({', '.join(repr(control.value) for control in self.inputs)})"

    def plot(self) -> Figure:
        """The figure of the chosen cell."""
        return plot_cell(self.results, *(control.value for control in self.inputs))

    def _update(self, change: object = None) -> None:
        figure, picture = self.plot(), io.BytesIO()
        figure.savefig(picture, format="png", dpi=100)
        self.message.value = figure.get_suptitle()
        plt.close(figure)
        self.picture.value = picture.getvalue()
