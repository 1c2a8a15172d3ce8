"""What all figures share: looks, size, legend, caption, and the PNG file."""

import io
import textwrap
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

# Colours that remain distinct with the common kinds of colour blindness (Okabe and Ito), each with its own marker.
LOOKS = {
    "full": ("full fine-tuning", "#0072b2", "o"),
    "bitfit": ("BitFit", "#d55e00", "s"),
    "bitfit+head": ("BitFit + classifier", "#009e73", "^"),
    "head": ("classifier only", "#cc79a7", "D"),
    "bitfit-qi+head": ("BitFit (query and MLP) + classifier", "#56b4e9", "v"),
}
GREY, PALE = "#595959", "#e0e0e0"
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
