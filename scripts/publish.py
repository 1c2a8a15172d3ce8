"""Copy the last runs from the build folder to results/, and update everything that is based on them.

A quick run becomes results/quick.json, the lab's full-size results become results/lab_*.json, those of `make matrix`
become benchmarks/matrix.json. From these, results/imdb.json (the 40 cells at full size) and benchmarks/, it creates the
pictures of both grids, the tables of docs/measurements.md, and answers.md.

python scripts/publish.py
"""

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import answers, lab_plots, plots, report
from helpers.progress import describe_time
from helpers.results import choose_best, list_policies, load_results, published, select_runs
from helpers.settings import Run, Settings, load_settings, write_atomically
from helpers.sweep import choose_runs, rungs

ROOT = Path(__file__).parents[1]
RESULTS, BENCHMARKS = ROOT / "results", ROOT / "benchmarks"
DOCUMENT = ROOT / "docs" / "measurements.md"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    collect()
    for name in ("quick", "imdb"):
        figure = plots.plot_grid(load_results(RESULTS / f"{name}.json"))
        figure.savefig(RESULTS / f"{name}_grid.png", dpi=110, bbox_inches="tight")
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, content in describe_all().items():
        text = replace_block(text, name, content)
    write_atomically(DOCUMENT, text)
    answers.write_answers(ROOT / "notebooks", RESULTS / "imdb.json", ROOT / "answers.md")
    print("Wrote results/, docs/measurements.md and answers.md")


def collect() -> None:
    """Copy the latest measurements; results that were not measured again stay as they are."""
    quick = load_settings("quick").folder / "results.json"
    if quick.exists():
        load_results(quick)
        shutil.copyfile(quick, RESULTS / "quick.json")
    for path in (load_settings("full").folder / "lab").glob("*.json"):
        shutil.copyfile(path, RESULTS / f"lab_{path.name}")
    rows = {row["name"]: row for row in read(BENCHMARKS / "matrix.json")["rows"]}
    for row in map(read, ROOT.glob("build/matrix/*/row.json")):
        rows[row["name"]] = row
    write_atomically(BENCHMARKS / "matrix.json", json.dumps({"rows": [*rows.values()]}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def describe_all() -> dict[str, str]:
    """The content of every block of docs/measurements.md."""
    blocks = {"results": describe_results("quick"), "imdb": describe_results("imdb"), "lab": describe_lab()}
    blocks["prune"] = describe_prune(load_results(RESULTS / "imdb.json"))
    for name, describe in {
        "speed": describe_speed,
        "speed_bf16": describe_speed,
        "step": describe_step,
        "accuracy": describe_accuracy,
        "first_figure": describe_first_figure,
        "matrix": describe_matrix,
    }.items():
        measured = read(BENCHMARKS / f"{name}.json")
        origin = describe_origin(measured["provenance"]) if "provenance" in measured else ""
        blocks[name] = f"{describe(measured)}{origin} File: `benchmarks/{name}.json`."
    return blocks


def describe_origin(run: dict[str, Any]) -> str:
    """What a benchmark's figures are based on, as far as its file says."""
    parts = []
    if "model" in run:
        data, versions = run["data"], run["versions"]
        parts = [
            f"model: {run['model']['name']}",
            f"data: {data['name']}, {data['train']:,} training and {data['validation']:,} validation reviews",
            f"Python {versions['python']}, torch {versions['torch']}, transformers {versions['transformers']}",
        ]
    parts.append(f"{run['hardware']['cores']} cores ({run['hardware']['processor']})")
    parts += [describe_time(run["wall_seconds"])] if "wall_seconds" in run else []
    parts += [f"finished {run['finished']}"] if "finished" in run else []
    return f" Measured: {'; '.join(parts)}."


def replace_block(text: str, name: str, content: str) -> str:
    text, found = re.subn(
        rf"(?s)(<!-- begin {name}:.*?-->\n).*?(<!-- end {name} -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
    )
    if found != 1:
        raise SystemExit(f"docs/measurements.md has no block between <!-- begin {name} --> and <!-- end {name} -->.")
    return text


def describe_results(name: str) -> str:
    """Both tables of the assignment from results/<name>.json, and how they were made."""
    results = load_results(RESULTS / f"{name}.json")
    tables = [report.to_markdown(table(results, published())) for table in (report.validation_table, report.test_table)]
    return "\n\n".join([*tables, f"Measured: {report.describe_run(results)} File: `results/{name}.json`."])


def describe_table(rows: dict[str, dict[str, str]], origin: str) -> str:
    """A table from rows (by name, each with its cells by column), and below it the origin of its figures."""
    return f"{report.to_markdown(pd.DataFrame.from_dict(rows, orient='index'))}\n\n{origin}"


def describe_lab() -> str:
    """The cost and the finding of each full-size experiment of the lab."""
    rows, finished, machines = {}, [], set()
    for path in sorted({*RESULTS.glob("lab_*.json")} - {RESULTS / "lab_cost.json"}):
        measured = load_results(path)
        run, runs = measured["provenance"], measured["runs"]
        machine = run["hardware"]
        seconds = sum(one["seconds"] for one in runs) / machine["cores"]
        rows[f"[`{measured['experiment']}`](../results/{path.name})"] = {
            "runs": str(len(runs)),
            "seeds": str(len({one["seed"] for one in runs})),
            "precision": run["recipe"]["precision"],
            "validation reviews": f"{runs[0]['measured_on']['validation']:,}",
            f"time on {machine['cores']} cores": describe_time(seconds),
            "found": lab_plots.describe_finding(measured),
        }
        finished.append(run["finished"])
        machines.add(machine["gpu"] or machine["processor"])
    return describe_table(
        rows,
        f"Model: {run['model']['name']}; data: {run['data']['name']}; {' or '.join(sorted(machines))}, one"
        f" thread a run; torch {run['versions']['torch']}; finished {min(finished)} to {max(finished)}.",
    )


def describe_speed(measured: dict[str, Any]) -> str:
    """Examples per second of the usual solution and of ours, and what these figures are based on."""
    rows: dict[str, dict[str, str]] = {}
    for cell in measured["cells"]:
        row = rows[f"{cell['policy']}, batch {cell['batch_size']}"] = {}
        for phase in ("training", "validation"):
            usual, here = cell["reference"][phase], cell["ours"][phase]
            row |= {f"{phase}: usual": f"{usual:.0f}", f"{phase}: here": f"{here:.0f}"}
            row[f"{phase}: ratio"] = f"{here / usual:.1f}×"
    ratio = measured["ratio"]
    return describe_table(
        rows,
        f"Over these cells {ratio['training']:.1f} times as fast in training, {ratio['validation']:.1f} times in"
        f" validation, {ratio['epoch']:.1f} times for whole epochs, in {measured['provenance']['precision']}.",
    )


def describe_step(measured: dict[str, Any]) -> str:
    """Where the time of a full-size step goes, and how close its matrix products come to the machine's limit."""
    rows, run = {}, measured["provenance"]
    for step in measured["steps"]:
        rows[step["policy"]] = {
            "step": f"{1000 * step['step_seconds']:.0f} ms",
            "GFLOP/s in products": f"{step['gflops_in_products']:.0f}",
        } | {kind: f"{share:.0%}" for kind, share in step["shares"].items()}
    return describe_table(
        rows,
        f"One thread, {run['precision']}, batches of {run['batch_size']} reviews of"
        f" {measured['steps'][0]['tokens_a_review']} tokens in the mean; products of large matrices reach"
        f" {measured['gflops_of_large_products']:.0f} GFLOP/s in one thread there.",
    )


def describe_accuracy(measured: dict[str, Any]) -> str:
    """The accuracies of the usual solution and of ours, over seeds, and what these figures are based on."""
    runs, rows = pd.DataFrame(measured["runs"]), {}
    for (policy, rate, size), group in runs.groupby(["policy", "learning_rate", "batch_size"], sort=False):
        points = (100 * group.validation_accuracy).groupby(group.side).agg(["mean", "std", "count"]).T
        usual, here = (
            f"{found['mean']:.2f} ± {found['std']:.2f} ({found['count']:.0f})"
            for found in (points["reference"], points["ours"])
        )
        rows[f"{policy}, {report.format_rate(rate)}, batch {size}"] = {
            "usual: mean ± deviation (runs)": usual,
            "here": here,
            "difference, points": f"{points['ours']['mean'] - points['reference']['mean']:+.2f}",
            "its standard error": "" if group.stream.nunique() == 1 else f"{dropout_error(group):.2f}",
        }
    return describe_table(
        rows,
        f"Validation accuracy in percent after {measured['provenance']['epochs']} epochs, seeds"
        f" {', '.join(map(str, sorted(runs.seed.unique())))}, fp32, one thread; the last run finished"
        f" {runs.finished.dropna().max()}.",
    )


def dropout_error(runs: pd.DataFrame) -> float:
    """The standard error, in points, of the difference between two correct programs, whose dropout masks differ.

    Estimated from runs with the same program and seed, whose accuracies differ only because of dropout.
    """
    alone = (100 * runs.validation_accuracy).groupby([runs.side, runs.seed])
    variance = ((alone.size() - 1) * alone.var()).sum() / (alone.size() - 1).sum()
    return math.sqrt(variance * (1 / runs.side.value_counts()).sum())


def replay_pruning(records: list[dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """The record that `--prune` would have chosen from a policy's exhaustive search, and the epochs it would train.

    A run's epochs are the same, bit for bit, whether it is stopped afterwards or not.
    """
    known = {Run(one["policy"], one["learning_rate"], one["batch_size"]): one for one in records}
    left, epochs, before = dict(known), 0, 0
    for until, share in rungs(Settings(), prune=True):
        if share < 1:
            left = {run: known[run] for run in choose_runs(left, before, math.ceil(share * len(known)))}
        epochs, before = epochs + len(left) * (until - before), until
    return choose_best(left.values()), epochs


def describe_prune(results: dict[str, Any]) -> str:
    """The choices of `--prune` next to those of the exhaustive search; the difference is in points."""
    rows: dict[str, dict[str, str]] = {}
    for policy in list_policies(results):
        runs = select_runs(results, policy=policy)
        whole, (pruned, epochs) = choose_best(runs), replay_pruning(runs)
        row = rows[policy] = {}
        for search, best, trained in (
            ("exhaustive", whole, sum(len(run["history"]) for run in runs)),
            ("pruned", pruned, epochs),
        ):
            row[f"{search}: epochs"] = str(trained)
            row[f"{search}: cell"] = f"{report.format_rate(best['learning_rate'])}, batch {best['batch_size']}"
            row[f"{search}: validation accuracy"] = f"{best['validation_accuracy']:.4f}"
        difference = 100 * (pruned["validation_accuracy"] - whole["validation_accuracy"])
        row["difference, points"] = f"{difference:+.2f}"
    return describe_table(rows, "The runs of `results/imdb.json`, described above.")


def describe_first_figure(measured: dict[str, Any]) -> str:
    """How long it takes until notebook 01 shows its first picture."""
    found = measured["until_the_first_figure"]
    return (
        f"From opening notebook 01 to its first picture: {found['here']['notebook_seconds']:.0f} s here, after"
        f" {found['here']['set_up_seconds']:.0f} s of set-up ({found['here']['set_up_gb']} GB);"
        f" {found['colab']['notebook_seconds']:.0f} s in an environment with Colab's packages, the course's"
        " installation included. The package cache was warm."
    )


def describe_matrix(measured: dict[str, Any]) -> str:
    """How many tests passed with which versions."""
    rows, machines = {}, pd.DataFrame([row["hardware"] for row in measured["rows"]]).astype(str)
    cores, processors = (" or ".join(sorted(machines[name].unique())) for name in ("cores", "processor"))
    for row in measured["rows"]:
        cells = rows[row["name"]] = dict(row["versions"])
        for step in ("tests", "notebooks"):
            counts = [str(row[step][name]) for name in ("passed", "failed", "skipped")]
            cells[f"{step}: passed / failed / skipped"] = " / ".join(counts)
        cells["finished"] = row["finished"][:10]
    return describe_table(rows, f"Each on {cores} cores ({processors}).")


if __name__ == "__main__":
    main()
