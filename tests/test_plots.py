"""Figures, tables and sentences from the committed results: nothing cut off, the source named, messages that follow."""

import re

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import RESULTS

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from helpers import lab, lab_plots, plots, report  # noqa: E402
from helpers.progress import interact  # noqa: E402
from helpers.results import load_results, published, select_runs  # noqa: E402
from helpers.settings import CourseError  # noqa: E402

FIGURES = {
    "grid": plots.plot_grid,
    "learning curves": plots.plot_learning_curves,
    "cell": lambda results: plots.plot_learning_curves(results, results["runs"][3:4]),
    "accuracy": lambda results: plots.plot_accuracy_against_parameters(results, published()),
    "biases": plots.plot_bias_movement,
}
LAB = dict.fromkeys(("head", "steps", "pretraining", "biases"), lab_plots.plot_variants) | {
    "rate": lambda results: lab_plots.plot_curve(results, "learning_rate"),
    "encoder": lambda results: lab_plots.plot_curve(results, "learning_rate"),
    "data": lambda results: lab_plots.plot_curve(results, "reviews"),
}


def load(name: str) -> dict:
    return load_results(RESULTS / f"{name}.json")


def keep(results: dict, condition) -> dict:
    return results | {"runs": [run for run in results["runs"] if condition(run)]}


@pytest.fixture
def quick() -> dict:
    return load("quick")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def assert_nothing_cut_off(figure) -> None:
    """Checked at the resolution of a notebook and at that of the saved files, each laid out twice as when saved."""
    for dpi in (72, 150):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height, (dpi, drawn.extents)
    assert "\n·" not in figure.get_supxlabel(), "a line of the caption begins with a dot"


def all_text(figure) -> str:
    if figure.stale:
        figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
    return " ".join(texts).replace("\n", " ").replace("\u00a0", " ")


def legend_of(figure) -> dict:
    """The first axis's legend: what it names, by name."""
    legend = figure.axes[0].get_legend()
    return {text.get_text(): handle for text, handle in zip(legend.texts, legend.legend_handles, strict=True)}


@pytest.mark.parametrize(
    "policies", [("full", "bitfit"), ("bitfit", "full", "head", "bitfit+head"), ("bitfit",)], ids=len
)
@pytest.mark.parametrize("name", FIGURES)
def test_a_sweeps_figure_is_whole_and_names_its_source(name, policies, quick):
    runs = {policy: select_runs(quick, policy=policy if policy == "full" else "bitfit") for policy in policies}
    figure = FIGURES[name](quick | {"runs": [run | {"policy": policy} for policy in runs for run in runs[policy]]})
    assert_nothing_cut_off(figure)
    text = all_text(figure)
    for part in ("Profile quick", "offline checkpoint (stands in for bert-tiny)", "(stands in for IMDb)", "seed 3463"):
        assert part in text


@pytest.mark.parametrize("name", LAB)
def test_a_labs_figure_is_whole_and_shows_every_seed(name):
    results = load(f"lab_{name}")
    figure = LAB[name](results)
    assert_nothing_cut_off(figure)
    text = all_text(figure)
    assert "Profile full" in text and "data imdb" in text and "stands in for IMDb" not in text
    assert f"{len({run['seed'] for run in results['runs']})} seeds" in text
    lines = [line for axis in figure.axes for line in axis.lines]
    shown = {float(value) for line in lines for value in [*line.get_xdata(), *line.get_ydata()]}
    assert {run["validation_accuracy"] for run in results["runs"]} <= shown


def stop_early(results):
    """The same, but all runs that were not tested were stopped after their first epoch."""
    for run in results["runs"]:
        if "test" not in run:
            run["history"] = run["history"][:1]
            run["validation_accuracy"] = run["history"][0]["validation_accuracy"]
    return results


def test_the_grid_shows_every_value_where_it_stopped_and_the_chosen_cell():
    results = stop_early(load("imdb"))
    figure = plots.plot_grid(results)
    axes = dict(zip(("full", "bitfit"), figure.axes, strict=False))
    shown = [text.get_text() for axis in axes.values() for text in axis.texts]
    for run in results["runs"]:
        stopped = f"\nepoch {len(run['history'])}" if len(run["history"]) < 4 else ""
        assert f"{run['validation_accuracy']:.3f}{stopped}" in shown
    for policy, place in (("full", (4, 0)), ("bitfit", (0, 0))):  # batch 128 and 8, both at 3e-4
        assert all(tuple(patch.get_center()) == pytest.approx(place) for patch in axes[policy].patches)
    assert len({axis.images[0].get_clim() for axis in axes.values()}) == 1, "the policies have different colour scales"


@pytest.mark.parametrize("name", ["quick", "imdb"])
def test_the_figures_of_a_grid_can_be_read_on_every_ground(name):
    def light(colour):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return np.dot(parts, (0.2126, 0.7152, 0.0722))

    for axis in plots.plot_grid(load(name)).axes[:2]:
        (image,) = axis.images
        for text in axis.texts:
            ground = image.cmap(image.norm(image.get_array()[text.get_position()[::-1]]))
            low, high = sorted(map(light, (ground, text.get_color())))
            assert (high + 0.05) / (low + 0.05) >= 4.5, text.get_text()


def test_the_epochs_at_an_axis_are_whole_numbers_where_there_is_only_one(quick):
    short = [run | {"history": run["history"][:1], "epochs": 1} for run in quick["runs"]]
    figure = plots.plot_learning_curves(quick | {"runs": short})
    assert_nothing_cut_off(figure)
    assert {label.get_text() for axis in figure.axes for label in axis.get_xticklabels()} <= {"0", "1", "2"}


def test_titles_follow_from_the_figures(quick):
    assert "ahead of BitFit in 20 of 20 cells" in all_text(plots.plot_grid(quick))
    missing = plots.plot_grid(keep(quick, lambda run: run["policy"] == "full" or run["batch_size"] != 16))
    assert len(missing.axes[1].texts) == 16 and "in 16 of 16 cells" in all_text(missing)
    assert "21.9 points lower" in all_text(plots.plot_accuracy_against_parameters(quick))
    bitfit = report.tested_run(quick, "bitfit")
    for accuracy, said in ((0.878, "tests 1.0 points higher"), (0.8683, "tests equally well")):
        bitfit["test"]["accuracy"] = accuracy
        assert said in all_text(plots.plot_accuracy_against_parameters(quick))


def test_published_points_are_marked_in_the_picture_and_not_hidden_behind_ours(quick):
    alone, beside = (plots.plot_accuracy_against_parameters(quick, known) for known in (None, published()))
    assert "published" not in all_text(alone)
    assert "bert-tiny on IMDb, not measured here" in all_text(beside)
    assert "published, BitFit: 0.626 (n = 25,000)" in all_text(beside)
    points = [line for line in beside.axes[0].lines if line.get_marker() == "o"]
    ours, theirs = (line.get_transform().transform(line.get_xydata())[0] for line in points)
    assert theirs[0] - ours[0] > 10 * beside.dpi / 72
    for policy in ("full", "bitfit"):
        run = report.tested_run(quick, policy)
        run["test"]["accuracy"], run["trainable_parameters"] = 0.55, 2_000
    (axis,) = plots.plot_accuracy_against_parameters(quick, published()).axes
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    assert left < 2_000 and right > 4_386_178 and low < 0.5 and high > 0.878


def test_biases_are_named_by_layer_and_the_one_left_out_is_named(quick):
    figure = plots.plot_bias_movement(quick)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["embeddings · LayerNorm", "layer 1 · attention query", "layer 1 · attention key"]
    assert labels[-1] == "pooler · dense" and len(labels) == 18
    full, bitfit = (line.get_ydata()[2] for line in figure.axes[0].lines[:2])  # Neither hides behind the other.
    assert full < 2 < bitfit
    assert "18 bias tensors: the classifier's is left out" in all_text(figure)
    lab = plots.plot_bias_movement(keep(load("lab_head"), lambda run: run["policy"] != "full"))
    assert "Most moved: layer 2 · attention query" in all_text(lab)  # counted as on the axis
    with pytest.raises(CourseError, match="moved a bias"):
        plots.plot_bias_movement(keep(load("lab_head"), lambda run: run["policy"] == "head"))


def test_variants_have_names_of_their_own():
    rows = [label.get_text() for label in lab_plots.plot_variants(load("lab_head")).axes[0].get_yticklabels()]
    assert len(set(rows)) == len(rows) == 6 and "BitFit\nclassifier weight x 50" in rows
    seeds = load("lab_steps")
    seeds["runs"] = [run | {"batch_size": 8 * (1 + run["seed"]), "tokens": 64} for run in seeds["runs"]]
    rows = [label.get_text() for label in lab_plots.plot_variants(seeds).axes[0].get_yticklabels()]
    assert len(set(rows)) == len(rows) == 16
    labels = legend_of(lab_plots.plot_curve(seeds, "learning_rate"))
    assert len(labels) == 11 and "BitFit, batch 16, 4 epochs" in labels
    apart = {("checkpoint", "bitfit+head"), ("random", "full")}  # A line in each of two panels.
    results = keep(load("lab_pretraining"), lambda run: (run["encoder"], run["policy"]) in apart)
    assert {*legend_of(lab_plots.plot_curve(results, "learning_rate"))} >= {"full fine-tuning", "BitFit + classifier"}


@pytest.mark.parametrize("name", ["rate", "encoder", "data"])
def test_a_policy_is_known_by_its_marker_too_where_colours_are_not_seen(name):
    figure, known = LAB[name](load(f"lab_{name}")), {label: marker for label, _, marker in plots.LOOKS.values()}
    shown = {label: line.get_marker() for label, line in legend_of(figure).items() if label in known}
    assert len(shown) >= 2 and shown.items() <= known.items()
    drawn = [line for axis in figure.axes for line in axis.lines if len(line.get_xdata())]
    assert {line.get_marker() for line in drawn if line.get_linestyle() == "--"} <= set(known.values())


@pytest.mark.parametrize("name", LAB)
@pytest.mark.parametrize("policy", ["bitfit", "bitfit+head"])
def test_a_list_that_a_student_shortened_is_drawn_too(name, policy):
    results = keep(load(f"lab_{name}"), lambda run: run["policy"] == policy and run["seed"] == 0)
    if results["runs"]:
        figure = LAB[name](results)
        assert_nothing_cut_off(figure)
        assert "nan" not in all_text(figure)


def test_a_figure_says_what_all_runs_have_in_common_and_the_assignment_has_not(quick):
    rates = load("lab_rate")
    longer = keep(rates, lambda run: run["learning_rate"] == 3e-4)
    longer = longer | {"runs": [run | {"epochs": 16, "batch_size": 32} for run in longer["runs"]]}
    assert "4,000 training reviews · batch 32 · 16 epochs · fp32" in report.describe_source(longer)
    for results in (rates, quick, load("lab_steps")):
        assert not re.search(r"epoch|batch|rate|tokens|encoder", report.describe_source(results))


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("steps", lambda runs: runs.query("learning_rate == 3e-4"), "16 epochs instead of 4 change BitFit by +7.1 poi"),
        ("steps", lambda runs: runs.query("epochs == 4 or learning_rate == 3e-4"), "From BitFit, rate 3e-4, 4 epochs"),
        ("steps", lambda runs: runs.assign(batch_size=runs["epochs"]), "From BitFit, rate 3e-4, batch 4, 4 epochs"),
        ("rate", lambda runs: runs.query("policy == 'bitfit' or learning_rate == 3e-4"), "From BitFit, rate 3e-4"),
        ("rate", lambda runs: runs.assign(policy="mine"), "mine is best at 1e-2; the grid ends at 3e-4"),
        ("rate", lambda runs: runs.assign(validation_accuracy=0.5), "From BitFit"),
        (
            "rate",
            lambda runs: runs.assign(validation_accuracy=runs["learning_rate"] > 1e-3),
            "BitFit is best at 3e-3 or",
        ),
        ("pretraining", lambda runs: runs.query("policy != 'full' or encoder != 'random'"), "From BitFit, random"),
    ],
)
def test_a_finding_compares_like_with_like_where_a_list_was_changed(name, change, sentence):
    results = load(f"lab_{name}")
    runs = change(pd.DataFrame(results["runs"])).to_dict("records")
    assert lab_plots.describe_finding(results | {"runs": runs}).startswith(sentence)


def test_a_figure_of_a_list_that_was_changed_compares_like_with_like():
    data = load("lab_data")
    data["runs"] += [run | {"epochs": 4, "validation_accuracy": 0.5} for run in data["runs"]]
    assert len(legend_of(lab_plots.plot_curve(data, "reviews"))) > len(select_runs(data, seed=0)) / 2
    moved = load("lab_head")
    assert "times as far" in plots.plot_bias_movement(moved).get_suptitle()
    moved["runs"].append(select_runs(moved, policy="bitfit")[0] | {"learning_rate": 1e-2})
    assert "times as far" not in plots.plot_bias_movement(moved).get_suptitle()


def test_results_that_a_figure_is_not_for_are_refused_in_one_sentence(quick):
    none, costs, rates = keep(quick, lambda run: False), load("lab_cost"), load("lab_rate")
    zero = rates | {"runs": [rates["runs"][0] | {"learning_rate": 0}]}
    search, axis = "no results of a search", "no numeric field '{}'. Choose one of: learning_rate"
    for draw, results, message in (
        (plots.plot_grid, rates, search),
        (plots.plot_grid, none, search),
        (plots.plot_learning_curves, costs, search),
        (lab_plots.plot_variants, quick, "no results of the lab"),
        (lab_plots.describe_finding, none, "no results of the lab"),
        (lab.tabulate_costs, quick, "These are not costs"),
        (lab.tabulate_costs, rates, "These are not costs"),
        (lab.tabulate_costs, keep(costs, lambda run: run["policy"] != "full"), "relative to those of the policy full"),
        (lambda results: lab_plots.plot_curve(results, "rate"), rates, axis.format("rate")),
        (lambda results: lab_plots.plot_curve(results, "encoder"), rates, axis.format("encoder")),
        (LAB["rate"], zero, "logarithmic and has no 0: leave out the runs whose learning_rate is 0"),
    ):
        with pytest.raises(CourseError, match=message):
            draw(results)


def test_all_reviews_are_a_number_of_reviews_too():
    results = load("lab_data")
    for run in select_runs(results, reviews=20_000):
        run["reviews"] = None
    figure = lab_plots.plot_curve(results, "reviews")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["250", "1,000", "4,000", "20,000"]
    assert "+8.2 points with 20,000 reviews" in all_text(figure)


def test_plots_are_saved_and_closed(tmp_path, quick):
    plots.save_plots(quick, tmp_path / "plots")
    paths = list((tmp_path / "plots").glob("*.png"))
    assert len(paths) == 4 and all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert not plt.get_fignums()


@pytest.mark.parametrize("plain", [True, False])
def test_the_grid_explorer_stands_for_itself_without_a_kernel(plain, quick, shown, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", "plain" if plain else "")
    assert plots.explore_grid(quick) is None
    assert shown[-1]["text/plain"] == "Full fine-tuning, rate 3e-4, batch 8: 0.946"
    assert shown[-1]["image/png"].startswith("iVBOR")
    assert ("application/vnd.jupyter.widget-view+json" in shown[-1]) == (not plain)
    with pytest.raises(CourseError, match="no run of full, 0.0003, 8: choose another"):
        plots.explore_grid(quick | {"runs": quick["runs"][1:]})


def test_an_explorer_draws_once_and_anew_when_a_choice_changes(shown, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", "")
    size = ipywidgets.Dropdown(options=[8, 16])
    interact(lambda size: {"text/plain": f"batch {size}"}, "1em", size=size)
    size.value = 16
    assert [bundle["text/plain"] for bundle in shown] == ["batch 8", "batch 16"]


def test_the_run_is_described_in_full(quick):
    text, minutes = report.describe_run(quick), f"{quick['provenance']['wall_seconds'] / 60:.1f} minutes"
    for part in ("profile `quick`", "seed 3463", "precision fp32", "Python 3.11.7", "torch 2.13", minutes):
        assert part in text
    assert "--prune" not in text
    pruned = report.describe_run(stop_early(load("imdb")))
    assert "38 of 40 runs, the less promising ones, stopped early (`--prune`: 46 of 160 epochs" in pruned
    assert "seeds 0, 1, 2" in report.describe_run(load("lab_rate"))


def test_tables_have_our_figures_and_the_published_ones(quick):
    table = report.validation_table(quick, published())
    assert table.loc["With BitFit"].tolist() == ["0.6520", "3e-4", "8", "0.6324", "3e-4", "8"]
    assert report.test_table(quick).loc["Without BitFit"].tolist() == ["4386178", "0.8680"]
    assert report.to_markdown(report.test_table(quick)).splitlines()[-1] == "| With BitFit | 3074 | 0.6490 |"
    assert "a difference of 21.9 points (25.2% relative)" in report.describe_gap(quick)
    with pytest.raises(CourseError, match="no tested run of the policy 'full'"):
        report.describe_gap(keep(quick, lambda run: run["policy"] == "bitfit"))
