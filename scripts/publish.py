"""Bring the last runs of the build folder into results/, and what rests on them up to date.

A quick run becomes results/quick.json, the lab's full-size results become results/lab_*.json. From these, from
results/imdb.json (the 40 cells at full size) and from benchmarks/ come the pictures of both grids, the README's tables
and answers.md.

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
from helpers.results import load_results, published
from helpers.settings import load_settings, write_atomically

ROOT = Path(__file__).parents[1]


def main() -> None:
    quick = load_settings("quick").folder / "results.json"
    if quick.exists():
        load_results(quick)
        shutil.copyfile(quick, ROOT / "results" / "quick.json")
    for name in ("quick", "imdb"):
        figure = plots.plot_grid(load_results(ROOT / "results" / f"{name}.json"))
        figure.savefig(ROOT / "results" / f"{name}_grid.png", dpi=110, bbox_inches="tight")
    readme = ROOT / "README.md"
    text = replace_block(readme.read_text(encoding="utf-8"), "results", describe_results("quick"))
    text = replace_block(text, "imdb", describe_results("imdb"))
    for path in sorted((load_settings("full").folder / "lab").glob("*.json")):
        shutil.copyfile(path, ROOT / "results" / f"lab_{path.name}")
    text = replace_block(text, "lab", describe_lab())
    text = replace_block(text, "speed", describe_speed())
    write_atomically(readme, replace_block(text, "accuracy", describe_accuracy()))
    answers.write_answers(ROOT / "notebooks", ROOT / "results" / "imdb.json", ROOT / "answers.md")
    print("Wrote results/, README.md and answers.md")


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
        raise SystemExit(f"README.md has no block between <!-- begin {name} --> and <!-- end {name} -->.")
    return text


def describe_lab() -> str:
    """What each full-size experiment of the lab took and found."""
    rows, notes = {}, []
    for path in sorted((ROOT / "results").glob("lab_*.json")):
        measured = json.loads(path.read_text(encoding="utf-8"))
        if "runs" not in measured:
            continue
        run, machine = measured["provenance"], measured["provenance"]["hardware"]
        seconds = sum(one["seconds"] for one in measured["runs"]) / machine["cores"]
        rows[f"[`{measured['experiment']}`](results/{path.name})"] = {
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
    rows, notes = {}, []
    for (policy, rate, size), group in runs.groupby(["policy", "learning_rate", "batch_size"], sort=False):
        every = group[group.side == "ours"]
        group = group[group.stream == 0]
        sides = {side: 100 * group[group.side == side].validation_accuracy for side in ("reference", "ours")}
        rows[f"{policy}, {report.format_rate(rate)}, batch {size}"] = {
            "usual: mean ± deviation": f"{sides['reference'].mean():.2f} ± {sides['reference'].std():.2f}",
            "here: mean ± deviation": f"{sides['ours'].mean():.2f} ± {sides['ours'].std():.2f}",
            "difference, points": f"{sides['ours'].mean() - sides['reference'].mean():+.2f}",
        }
        if every.stream.nunique() > 1:
            notes.append(describe_streams(policy, every, sides["reference"]))
    run = measured["provenance"]
    return "\n\n".join(
        [
            report.to_markdown(pd.DataFrame.from_dict(rows, orient="index")),
            f"Validation accuracy in percent on {run['data']['validation']:,} reviews after {run['epochs']} epochs on"
            f" {run['data']['train']:,}, seeds {', '.join(map(str, sorted(runs.seed.unique())))}; model:"
            f" {run['model']['name']}; {run['hardware']['processor']}, one thread; torch {run['versions']['torch']}."
            " File: `benchmarks/accuracy.json`.",
            *notes,
        ]
    )


def describe_streams(policy: str, ours: pd.DataFrame, reference: pd.Series) -> str:
    """How far two right programs may be apart, since dropout draws other random numbers in each of them."""
    by_seed = (100 * ours.validation_accuracy).groupby(ours.seed)
    spread = math.sqrt(by_seed.var().mean())
    error = spread * math.sqrt(1 / len(reference) + 1 / len(ours))
    return (
        f"Dropout draws other random numbers in the two programs. With {ours.stream.nunique()} sets of them for each"
        f" seed the runs of {policy} here average {100 * ours.validation_accuracy.mean():.2f}, which is"
        f" {100 * ours.validation_accuracy.mean() - reference.mean():+.2f} points from the usual solution's mean. These"
        f" numbers alone spread one seed's accuracy by {spread:.2f} points (standard deviation), so two programs that"
        f" are equally right would differ by a standard error of {error:.2f} points in such a comparison."
    )


if __name__ == "__main__":
    main()
