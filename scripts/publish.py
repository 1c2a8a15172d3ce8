"""Bring the last runs of the build folder into results/, and what rests on them up to date.

A quick run becomes results/quick.json, the lab's full-size results become results/lab_*.json, what `make matrix` found
becomes benchmarks/matrix.json. From these, from results/imdb.json (the 40 cells at full size) and from benchmarks/ come
the pictures of both grids, the tables of docs/measurements.md and answers.md.

python scripts/publish.py
"""

import json
import math
import re
import shutil
from pathlib import Path

import pandas as pd

from helpers import answers, lab_plots, plots, report
from helpers.progress import describe_time
from helpers.results import describe_machine, load_results, published
from helpers.settings import load_settings, write_atomically

ROOT = Path(__file__).parents[1]


def main() -> None:
    quick = load_settings("quick").folder / "results.json"
    if quick.exists():
        load_results(quick)
        shutil.copyfile(quick, ROOT / "results" / "quick.json")
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("build/matrix/*/row.json"))]
    if rows:
        tried = {"hardware": describe_machine(), "rows": rows}
        write_atomically(ROOT / "benchmarks" / "matrix.json", json.dumps(tried, indent=1) + "\n")
    for path in sorted((load_settings("full").folder / "lab").glob("*.json")):
        shutil.copyfile(path, ROOT / "results" / f"lab_{path.name}")
    for name in ("quick", "imdb"):
        figure = plots.plot_grid(load_results(ROOT / "results" / f"{name}.json"))
        figure.savefig(ROOT / "results" / f"{name}_grid.png", dpi=110, bbox_inches="tight")
    document = ROOT / "docs" / "measurements.md"
    text = document.read_text(encoding="utf-8")
    for name, content in {
        "results": describe_results("quick"),
        "imdb": describe_results("imdb"),
        "lab": describe_lab(),
        "speed": describe_speed(),
        "accuracy": describe_accuracy(),
        "prune": describe_prune(),
        "first figure": describe_first_figure(),
        "matrix": describe_matrix(),
    }.items():
        text = replace_block(text, name, content)
    write_atomically(document, text)
    answers.write_answers(ROOT / "notebooks", ROOT / "results" / "imdb.json", ROOT / "answers.md")
    print("Wrote results/, docs/measurements.md and answers.md")


def describe_results(name: str) -> str:
    """Both tables of the assignment from results/<name>.json, and what made them."""
    results = load_results(ROOT / "results" / f"{name}.json")
    tables = [report.to_markdown(table(results, published())) for table in (report.validation_table, report.test_table)]
    return "\n\n".join([*tables, f"Measured: {report.describe_run(results)} File: `results/{name}.json`."])


def replace_block(text: str, name: str, content: str) -> str:
    text, found = re.subn(
        rf"(?s)(<!-- begin {name}.*?-->\n).*?(<!-- end {name} -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
    )
    if found != 1:
        raise SystemExit(f"docs/measurements.md has no block between <!-- begin {name} --> and <!-- end {name} -->.")
    return text


def describe_lab() -> str:
    """What each full-size experiment of the lab took and found."""
    rows, notes = {}, []
    for path in sorted({*(ROOT / "results").glob("lab_*.json")} - {ROOT / "results" / "lab_cost.json"}):
        measured = load_results(path)
        run, machine = measured["provenance"], measured["provenance"]["hardware"]
        seconds = sum(one["seconds"] for one in measured["runs"]) / machine["cores"]
        rows[f"[`{measured['experiment']}`](../results/{path.name})"] = {
            "runs": str(len(measured["runs"])),
            "seeds": str(len({one["seed"] for one in measured["runs"]})),
            "precision": run["recipe"]["precision"],
            "validation reviews": f"{measured['runs'][0]['measured_on']['validation']:,}",
            f"time on {machine['cores']} cores": describe_time(seconds),
            "found": lab_plots.describe_finding(measured),
        }
        notes.append(run["finished"])
    return "\n\n".join(
        [
            report.to_markdown(pd.DataFrame.from_dict(rows, orient="index")),
            f"Model: {run['model']['name']}; data: {run['data']['name']};"
            f" {machine['gpu'] or machine['processor']}, one thread a run; torch"
            f" {run['versions']['torch']}; finished {min(notes)} to {max(notes)}. The times are those of a machine that"
            " did other work as well.",
        ]
    )


def describe_speed() -> str:
    """The table of benchmarks/speed.json and what it rests on."""
    measured = json.loads((ROOT / "benchmarks" / "speed.json").read_text(encoding="utf-8"))
    rows = {
        f"{cell['policy']}, batch {cell['batch_size']}": {
            f"{phase}: {name}": f"{value:.1f}×" if name == "ratio" else f"{value:.0f}"
            for phase in ("training", "validation")
            for name, value in (
                ("usual", cell["reference"][phase]),
                ("here", cell["ours"][phase]),
                ("ratio", cell["ours"][phase] / cell["reference"][phase]),
            )
        }
        for cell in measured["cells"]
    }
    run, ratio = measured["provenance"], measured["ratio"]
    return "\n\n".join(
        [
            report.to_markdown(pd.DataFrame.from_dict(rows, orient="index")),
            f"Over these cells {ratio['training']:.1f} times as fast in training, {ratio['validation']:.1f} times in"
            f" validation, {ratio['epoch']:.1f} times for whole epochs. Measured on {run['cores']} cores"
            f" ({run['hardware']['processor']}, {run['precision']}) with {run['data']['train']} training and"
            f" {run['data']['validation']} validation reviews a figure; torch {run['versions']['torch']}; finished"
            f" {run['finished']}. File: `benchmarks/speed.json`.",
        ]
    )


def describe_accuracy() -> str:
    """The table of benchmarks/accuracy.json and what it rests on."""
    measured = json.loads((ROOT / "benchmarks" / "accuracy.json").read_text(encoding="utf-8"))
    runs = pd.DataFrame(measured["runs"])
    rows = {}
    for (policy, rate, size), group in runs.groupby(["policy", "learning_rate", "batch_size"], sort=False):
        sides = {side: 100 * group[group.side == side].validation_accuracy for side in ("reference", "ours")}
        row = {
            name: f"{sides[side].mean():.2f} ± {sides[side].std():.2f} ({len(sides[side])})"
            for name, side in (("usual: mean ± deviation (runs)", "reference"), ("here", "ours"))
        }
        row["difference, points"] = f"{sides['ours'].mean() - sides['reference'].mean():+.2f}"
        row["its standard error"] = "" if group.stream.nunique() == 1 else f"{dropout_error(group):.2f}"
        rows[f"{policy}, {report.format_rate(rate)}, batch {size}"] = row
    run = measured["provenance"]
    return "\n\n".join(
        [
            report.to_markdown(pd.DataFrame.from_dict(rows, orient="index")),
            f"Validation accuracy in percent on {run['data']['validation']:,} reviews after {run['epochs']} epochs on"
            f" {run['data']['train']:,}, seeds {', '.join(map(str, sorted(runs.seed.unique())))}; model:"
            f" {run['model']['name']}; {run['hardware']['processor']}, fp32, one thread; torch"
            f" {run['versions']['torch']}. File: `benchmarks/accuracy.json`.",
        ]
    )


def dropout_error(runs: pd.DataFrame) -> float:
    """The standard error, in points, of the difference of two right programs: dropout draws other numbers in each.

    Estimated from runs of one program and seed, whose accuracies differ by these numbers alone.
    """
    alone = (100 * runs.validation_accuracy).groupby([runs.side, runs.seed])
    variance = ((alone.size() - 1) * alone.var()).sum() / (alone.size() - 1).sum()
    return math.sqrt(variance * (1 / runs.side.value_counts()).sum())


def describe_prune() -> str:
    """What benchmarks/prune.json says of `--prune` beside the exhaustive search."""
    measured = json.loads((ROOT / "benchmarks" / "prune.json").read_text(encoding="utf-8"))
    rows = {
        policy: {
            f"{search}: {name}": text
            for search in ("exhaustive", "pruned")
            for name, text in (
                ("epochs", str(found[search]["epochs"])),
                ("cell", f"{report.format_rate(found[search]['learning_rate'])}, batch {found[search]['batch_size']}"),
                ("validation accuracy", f"{found[search]['validation_accuracy']:.4f}"),
            )
        }
        | {"difference, points": f"{found['difference_points']:+.2f}"}
        for policy, found in measured["found"].items()
    }
    run = measured["provenance"]
    return "\n\n".join(
        [
            report.to_markdown(pd.DataFrame.from_dict(rows, orient="index")),
            f"Model: {run['model']['name']}; {run['data']['train']:,} training and {run['data']['validation']:,}"
            f" validation reviews of IMDb; seed {run['recipe']['seed']}; {run['recipe']['precision']},"
            f" {run['hardware']['processor']}; torch {run['versions']['torch']}; finished {run['finished']}. File:"
            " `benchmarks/prune.json`.",
        ]
    )


def describe_first_figure() -> str:
    """How long it takes until notebook 01 shows its first picture, from benchmarks/first_figure.json."""
    measured = json.loads((ROOT / "benchmarks" / "first_figure.json").read_text(encoding="utf-8"))
    found, run = measured["until_the_first_figure"], measured["provenance"]
    return (
        f"From opening notebook 01 to its first picture: {found['here']['notebook_seconds']:.0f} s here, after"
        f" {found['here']['set_up_seconds']:.0f} s of set-up; {found['colab']['notebook_seconds']:.0f} s in an"
        " environment with Colab's packages, the course's installation included (a warm package cache,"
        f" {run['hardware']['cores']} cores, {run['hardware']['processor']}, busy with other work as well). File:"
        " `benchmarks/first_figure.json`."
    )


def describe_matrix() -> str:
    """The table of `make matrix`, from benchmarks/matrix.json."""
    measured = json.loads((ROOT / "benchmarks" / "matrix.json").read_text(encoding="utf-8"))
    machine, lines = measured["hardware"], {}
    for row in filter(lambda row: "versions" in row, measured["rows"]):
        lines[row["name"]] = dict(row["versions"])
        for step in ("tests", "notebooks"):
            counts = " / ".join(str(row[step][name]) for name in ("passed", "failed", "skipped"))
            lines[row["name"]][f"{step}: passed / failed / skipped"] = counts
    last = max(row.get("finished", "") for row in measured["rows"])
    table = report.to_markdown(pd.DataFrame.from_dict(lines, orient="index"))
    return (
        f"{table}\n\nMeasured on {machine['cores']} cores ({machine['processor']}); finished {last}. File:"
        " `benchmarks/matrix.json`."
    )


if __name__ == "__main__":
    main()
