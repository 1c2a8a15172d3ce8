"""Figures from made-up results: nothing cut off, the source named, messages that follow from the figures."""

import copy
import random
import subprocess
import sys

import matplotlib
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from helpers import plots  # noqa: E402
from helpers.results import published  # noqa: E402
from helpers.settings import CourseError, Settings  # noqa: E402

TRAINED = {"full": 4386178, "bitfit": 3074, "bitfit+head": 3330, "head": 258}
PARTS = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
BIASES = [
    "bert.embeddings.LayerNorm.bias",
    *(
        f"bert.encoder.layer.{layer}.{place}.bias"
        for layer in (0, 1)
        for place in (
            *(f"attention.{part}" for part in PARTS),
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
    ),
    "bert.pooler.dense.bias",
]
FIGURES = {
    "grid": plots.plot_grid,
    "learning curves": plots.plot_learning_curves,
    "accuracy": lambda results: plots.plot_accuracy_against_parameters(results, published()),
    "biases": plots.plot_bias_movement,
}


def make_up_results(policies=("full", "bitfit")) -> dict:
    """Synthetic results of the right shape; no figure in them was measured."""
    draw, settings = random.Random(0), Settings()
    made = {}
    for place, policy in enumerate(policies):
        cells = []
        for rate, size in settings.cells:
            last = 0.88 - 0.1 * place - 0.02 * settings.learning_rates.index(rate) + draw.uniform(-0.01, 0.01)
            epochs = [
                {"epoch": epoch, "loss": 0.5, "validation_accuracy": last - 0.03 * (4 - epoch), "seconds": 1.0}
                for epoch in range(1, 5)
            ]
            cells.append(
                {
                    "learning_rate": rate,
                    "batch_size": size,
                    "epochs": epochs,
                    "validation_accuracy": last,
                    "seconds": 4.0,
                }
            )
        best = max(cells, key=lambda cell: cell["validation_accuracy"])
        made[policy] = {
            "trainable_parameters": TRAINED[policy],
            "cells": cells,
            "best": {name: best[name] for name in ("learning_rate", "batch_size", "validation_accuracy")},
            "test": {
                "accuracy": 0.87 - 0.1 * place,
                "n": 1000,
                "mistakes": [],
                "bias_movement": {name: draw.uniform(0, 0.01) for name in BIASES},
            },
        }
    provenance = {
        "profile": "quick",
        "model": {"name": "offline checkpoint", "fingerprint": "0" * 16},
        "data": {"name": "offline reviews", "fingerprint": "0" * 16, "train": 2000, "validation": 500, "test": 1000},
        "recipe": settings.recipe(),
    }
    return {"schema": 1, "provenance": provenance, "policies": made}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def visible_texts(figure) -> list[Text]:
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def assert_nothing_cut_off(figure) -> None:
    """Checked at the resolution of a notebook and at that of the saved files, each laid out twice as when saved."""
    for dpi in (72, 150):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height, (dpi, drawn.extents)


def all_text(figure) -> str:
    return " ".join(text.get_text() for text in visible_texts(figure)).replace("\n", " ")


@pytest.mark.parametrize(
    "policies", [("full", "bitfit"), ("full", "bitfit", "bitfit+head", "head"), ("head",)], ids=len
)
@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_whole_and_names_its_source(name, policies):
    figure = FIGURES[name](make_up_results(policies))
    assert_nothing_cut_off(figure)
    text = all_text(figure)
    for part in (
        "Profile quick, a stand-in",
        "model offline checkpoint",
        "data offline reviews",
        "2,000 training reviews",
    ):
        assert part in text


def test_full_profile_is_not_called_a_stand_in():
    results = make_up_results()
    results["provenance"]["profile"] = "full"
    assert "stand-in" not in all_text(plots.plot_grid(results))


def test_grid_shows_every_value_and_outlines_the_chosen_cell():
    results = make_up_results()
    figure = plots.plot_grid(results)
    text = all_text(figure)
    for policy, axis in zip(results["policies"].values(), figure.axes, strict=False):
        assert all(f"{cell['validation_accuracy']:.3f}" in text for cell in policy["cells"])
        settings, best = Settings(), policy["best"]
        centres = {(patch.get_x() + 0.46, patch.get_y() + 0.43) for patch in axis.patches}
        column, row = (
            settings.batch_sizes.index(best["batch_size"]),
            settings.learning_rates.index(best["learning_rate"]),
        )
        assert all(centre == pytest.approx((column, row)) for centre in centres)
    scales = {axis.images[0].get_clim() for axis in figure.axes[:2]}
    assert len(scales) == 1, "the policies have different colour scales"


def test_titles_follow_from_the_figures():
    results = make_up_results()
    assert "ahead of BitFit in 20 of 20 cells" in all_text(plots.plot_grid(results))
    assert "10.0 points lower" in all_text(plots.plot_accuracy_against_parameters(results))
    turned = copy.deepcopy(results)
    turned["policies"]["bitfit"]["test"]["accuracy"] = 0.88
    assert "1.0 points higher" in all_text(plots.plot_accuracy_against_parameters(turned))


def test_published_points_are_marked_as_another_experiment():
    results = make_up_results()
    alone, beside = (plots.plot_accuracy_against_parameters(results, known) for known in (None, published()))
    assert "published" not in all_text(alone)
    assert "bert-tiny on IMDb, not measured here" in all_text(beside)
    assert "published, BitFit: 0.626 (n = 25,000)" in all_text(beside)


def test_biases_are_named_by_layer_in_the_networks_order():
    axis = plots.plot_bias_movement(make_up_results()).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[:3] == ["embeddings · LayerNorm", "layer 1 · attention query", "layer 1 · attention key"]
    assert labels[-1] == "pooler · dense"


@pytest.mark.parametrize(
    ("examples", "size", "steps"), [(2000, 8, 250), (2000, 128, 16), (20_000, 128, 157), (1, 8, 1)]
)
def test_count_steps_counts_the_last_smaller_batch(examples, size, steps):
    assert plots.count_steps(examples, size) == steps


def test_words_are_drawn_in_reading_order_and_the_strongest_is_named():
    effects = pd.Series([0.1, -0.5, 0.0, 0.2, 0.2], index=["a", "dull", "film", "so", "so"])
    figure = plots.plot_word_effects({"BitFit": effects, "full": -effects}, "made up", most=4)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "dull", "so", "so"]
    assert [bar.get_width() for bar in left.patches] == [0.1, -0.5, 0.2, 0.2]
    assert "“dull”" in figure.get_suptitle() and right.get_title() == "full"
    plt.close(figure)


def test_schedule_ends_at_zero_after_the_last_step():
    figure = plots.plot_schedule(Settings().recipe(), 2000, "made up")
    assert_nothing_cut_off(figure)
    ends = {line.get_xdata()[-1]: line.get_ydata()[-1] for line in figure.axes[1].lines}
    assert ends == {steps: 0 for steps in (1000, 500, 252, 128, 64)}


def test_plots_are_saved_and_closed(tmp_path):
    paths = plots.save_plots(make_up_results(), tmp_path / "plots")
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "plots").iterdir()}
    assert len(paths) == 5 and all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert not plt.get_fignums()


def test_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "plots").write_text("a file in the way")
    with pytest.raises(CourseError, match="Could not write the figure"):
        plots.save_plots(make_up_results(), tmp_path / "plots")


def test_plots_import_no_torch():
    code = "import sys, helpers.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
