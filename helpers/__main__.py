"""The command line: python -m helpers VERB."""

import argparse
import sys
from pathlib import Path

from helpers import tolerate_any_encoding


def main(arguments: list[str] | None = None) -> int:
    tolerate_any_encoding()
    options = build_parser().parse_args(arguments)
    from helpers.settings import CourseError

    try:
        return options.run(options) or 0
    except (CourseError, NotImplementedError) as error:
        if options.traceback or not isinstance(error, CourseError) and not str(error).startswith("Problem "):
            raise  # For developers, or an error that no exercise has raised which waits to be written.
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Running the same command again goes on where this one stopped.", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Full fine-tuning against BitFit, as a course assignment."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for run, options in VERBS.items():
        verb = verbs.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        verb.set_defaults(run=run)
        verb.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
        for option in options:
            verb.add_argument(*option[:-1], **option[-1])
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def settings_of(options: argparse.Namespace):
    from helpers.settings import load_settings

    return load_settings(options.profile, options.model, options.data, getattr(options, "precision", None))


def assignment(options: argparse.Namespace) -> None:
    """run the whole experiment: 40 runs, the test, tables, plots and answers"""
    from helpers import answers, plots, report
    from helpers.results import published
    from helpers.sweep import run_sweep

    settings = settings_of(options)
    notebooks = answers.find_notebooks()
    print(settings, flush=True)
    results = run_sweep(settings, workers=options.workers, prune=options.prune, scheduler=options.scheduler)
    print(f"\nProblem 3a\n{report.validation_table(results, published()).to_string()}")
    print(f"\nProblem 3b\n{report.test_table(results, published()).to_string()}")
    print(f"\n{report.describe_gap(results)}\n{report.describe_run(results)}")
    plots.save_plots(results, settings.folder / "plots")
    answers.write_answers(notebooks, settings.folder / "results.json", settings.folder / "answers.md")
    print(f"\nWritten to {settings.folder}: results.json, plots/, answers.md")


def sweep(options: argparse.Namespace) -> None:
    """train the runs of the grid that are not finished yet, and test the best ones"""
    from helpers.sweep import run_sweep

    settings = settings_of(options)
    print(settings, flush=True)
    policies = options.policy or ("full", "bitfit")
    print_tables(run_sweep(settings, policies, options.workers, options.prune, options.scheduler))


def cell(options: argparse.Namespace) -> None:
    """train and test a single run, also one beside the grid"""
    from helpers import report
    from helpers.results import load_results
    from helpers.settings import Run
    from helpers.sweep import run_cell

    settings = settings_of(options)
    print(settings, flush=True)
    seed = settings.seed if options.seed is None else options.seed
    path = run_cell(settings, Run(options.policy, options.learning_rate, options.batch_size, seed, settings.epochs))
    print_tables(load_results(path))
    print(f"\n{report.describe_run(load_results(path))}\nWritten to {path}")


def print_tables(results) -> None:
    from helpers import report

    print(f"\n{report.validation_table(results).to_string()}\n\n{report.test_table(results).to_string()}")


def lab(options: argparse.Namespace) -> None:
    """measure what limits BitFit, one experiment at a time; cost is what each policy costs"""
    from helpers.lab import list_runs, measure_cost, run_lab, summarise, tabulate_costs

    settings = settings_of(options)
    print(settings, flush=True)
    for name in options.experiments:
        if name == "cost":
            print(tabulate_costs(measure_cost(settings)).to_string())
            continue
        runs = list_runs(settings, name, range(options.seeds))
        results = run_lab(settings, name, runs, options.workers, options.scheduler)
        print(f"\n{name}\n{summarise(results).to_string()}", flush=True)


def answers(options: argparse.Namespace) -> None:
    """write answers.md from the notebooks' answer cells and the results"""
    from helpers.answers import find_notebooks, find_results, write_answers

    settings = settings_of(options)
    results = Path(options.results) if options.results else find_results(settings)
    write_answers(find_notebooks(), results, Path(options.out))
    print(f"Wrote {options.out} with the figures of {results.name}.")


def prefetch(options: argparse.Namespace) -> None:
    """fetch model and data of the full profile into the hub's cache, for work without a network"""
    from helpers.data import load_reviews
    from helpers.models import load_classifier, load_tokenizer
    from helpers.settings import load_settings

    settings = load_settings(options.profile or "full", options.model, options.data)
    load_classifier(settings.model)
    load_tokenizer(settings.model)
    reviews = load_reviews(settings)
    print(f"{settings}: cached, {', '.join(f'{len(rows):,} {split}' for split, rows in reviews.items())} reviews.")


def submit(options: argparse.Namespace) -> None:
    """verify the hand-in, list what is missing, and write it as one zip"""
    from helpers.settings import CourseError
    from helpers.submit import collect_hand_in

    hand_in = collect_hand_in(options.notebooks)
    print(hand_in.describe())
    if hand_in.gaps and not options.incomplete:
        raise CourseError(
            f"{len(hand_in.gaps)} MISSING, see above; no zip is written. Do what is missing and run this again, or add"
            " --incomplete to hand in what there is."
        )
    hand_in.pack(Path(options.out))
    print(f"Wrote {options.out} ({Path(options.out).stat().st_size / 1024:,.0f} KiB).")


def doctor(options: argparse.Namespace) -> int:
    """check this machine: versions, device, disk, cache and more, with a fix for what is wrong"""
    from helpers.doctor import examine, report

    findings = examine(options.profile, options.model, options.data)
    print(report(findings))
    return int(any(finding.verdict == "FAIL" for finding in findings))


LAB = ("head", "rate", "steps", "data", "pretraining", "encoder", "biases", "cost")
WHAT = [
    ("--profile", {"help": "quick (default, offline) or full (bert-tiny and IMDb); also COURSE_PROFILE"}),
    ("--model", {"help": "hub id or folder; also COURSE_MODEL"}),
    ("--data", {"help": "hub id or folder; also COURSE_DATA"}),
]
HOW = [
    *WHAT,
    ("--precision", {"help": "fp32, bf16, or auto: bf16 where it is quick; also COURSE_PRECISION"}),
    ("--workers", {"type": positive, "help": "processes that share the runs (default: one a core)"}),
    ("--scheduler", {"help": "Dask scheduler whose workers share the runs, tcp://HOST:PORT"}),
]
PRUNE = ("--prune", {"action": "store_true", "help": "stop the less promising runs early"})
OUT = {"help": "file to write (default: %(default)s)"}
VERBS = {
    assignment: [*HOW, PRUNE],
    sweep: [*HOW, PRUNE, ("--policy", {"action": "append", "help": "a policy's grid; may be repeated"})],
    cell: [
        *HOW[:4],
        ("--policy", {"default": "full", "help": "default: %(default)s"}),
        ("--learning-rate", {"type": float, "default": 3e-4, "help": "default: %(default)s"}),
        ("--batch-size", {"type": positive, "default": 64, "help": "examples a step (default: %(default)s)"}),
        ("--seed", {"type": int, "help": "of the classifier, the order and the dropout"}),
    ],
    lab: [
        *HOW,
        ("experiments", {"metavar": "EXPERIMENT", "nargs": "+", "choices": LAB, "help": ", ".join(LAB)}),
        ("--seeds", {"type": positive, "default": 3, "help": "runs with other seeds (default: %(default)s)"}),
    ],
    answers: [
        *WHAT,
        ("--results", {"help": "results file (default: results/PROFILE.json, else the last run's)"}),
        ("--out", {"default": "answers.md"} | OUT),
    ],
    prefetch: WHAT,
    submit: [
        ("--notebooks", {"help": "folder of the saved notebooks (default: notebooks)"}),
        ("--out", {"default": "submission.zip"} | OUT),
        ("--incomplete", {"action": "store_true", "help": "write the zip although something is missing"}),
    ],
    doctor: WHAT,
}

if __name__ == "__main__":
    sys.exit(main())
