"""The command line: python -m helpers VERB."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from helpers import tolerate_any_encoding
from helpers.results import blame_exercises, load_results, published
from helpers.settings import CourseError, Run, Settings, load_settings

Verbs = dict[Callable[[argparse.Namespace], int | None], list[tuple]]  # each verb's arguments, for `add_argument`


def main(arguments: list[str] | None = None, package: str = "helpers", verbs: Verbs | None = None) -> int:
    """Run the requested verb; returns the exit code. Errors that the user can fix are printed as one message."""
    tolerate_any_encoding()
    options = build_parser(package, verbs or VERBS).parse_args(arguments)
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # `... | head`: the reader has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, SystemExit) as error:
        said = str(error) if isinstance(error, CourseError) else blame_exercises(error)
        if not said and isinstance(error, ModuleNotFoundError):
            said = f"{error} in {sys.executable}. Use the Python of the course's environment, such as .venv/bin/python."
        if not said and isinstance(error, OSError):  # Such as a log on a full disk.
            said = f"{error}. Is there room on the disk, and are you allowed to write there? Finished work is kept."
        if options.traceback or not said:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue from here.", file=sys.stderr)
        return 130


def build_parser(package: str, verbs: Verbs) -> argparse.ArgumentParser:
    description = "Full fine-tuning against BitFit, as a course assignment."
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    commands = parser.add_subparsers(required=True, metavar="VERB")
    for run, options in verbs.items():
        verb = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        verb.set_defaults(run=run)
        verb.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)  # for developers
        for option in options:
            verb.add_argument(*option[:-1], **option[-1])
    return parser


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def begin(options: argparse.Namespace) -> Settings:
    """Load a verb's settings, and print them before it starts; if it needs workers, their server starts, too."""
    settings = load_settings(*(getattr(options, name, None) for name in ("profile", "model", "data", "precision")))
    print(settings, flush=True)
    if "scheduler" in options and not options.scheduler:
        from helpers.workers import choose_context

        choose_context()  # It imports torch at the same time as this process.
    return settings


def show(results: dict) -> None:
    from helpers import report

    print(f"\nValidation (problem 3a)\n{report.validation_table(results, published()).to_string()}")
    print(f"\nTest (problem 3b)\n{report.test_table(results, published()).to_string()}")
    print(f"\n{report.describe_run(results)}")


def assignment(options: argparse.Namespace) -> None:
    """run the whole experiment: 40 runs, the test, tables, plots and answers"""
    settings = begin(options)
    import matplotlib

    from helpers import answers, plots, report
    from helpers.submit import noting
    from helpers.sweep import run_sweep

    notebooks = answers.find_notebooks()
    results = run_sweep(settings, workers=options.workers, prune=options.prune, scheduler=options.scheduler)
    show(results)
    print(report.describe_gap(results))
    matplotlib.use("agg")  # MPLBACKEND may name one for windows, or one of PyCharm's that is not installed here.
    plots.save_plots(results, settings.folder / "plots")
    gaps: list[str] = []
    with noting(gaps):  # Students train before they write.
        answers.write_answers(notebooks, settings.folder / "results.json", settings.folder / "answers.md")
    print(*(f"\nanswers.md has not been written yet. {gap}" for gap in gaps), sep="")
    print(f"Written to {settings.folder}: results.json, plots/{'' if gaps else ', answers.md'}")


def sweep(options: argparse.Namespace) -> None:
    """train the runs of the grid that are not finished yet, and test the best ones"""
    settings = begin(options)
    from helpers.sweep import run_sweep

    policies = options.policy or ("full", "bitfit")
    show(run_sweep(settings, policies, options.workers, options.prune, options.scheduler))


def cell(options: argparse.Namespace) -> None:
    """train and test a single run, in the grid or outside it"""
    settings = begin(options)
    from helpers.sweep import run_cell

    run = Run(options.policy, options.learning_rate, options.batch_size, options.seed, settings.epochs)
    path = run_cell(settings, run)
    show(load_results(path))
    print(f"Written to {path}")


def lab(options: argparse.Namespace) -> None:
    """measure what limits BitFit, one experiment at a time; `cost` measures the policies' costs"""
    settings = begin(options)
    from helpers.lab import list_runs, measure_cost, run_lab, summarise, tabulate_costs

    for name in options.experiments:
        if name == "cost":
            if options.scheduler:
                print("cost is measured on this machine, not on the scheduler's workers.", flush=True)
            print(tabulate_costs(measure_cost(settings)).to_string())
            continue
        runs = list_runs(settings, name, options.seeds)
        results = run_lab(settings, name, runs, options.workers, options.scheduler)
        print(f"\n{name}\n{summarise(results).to_string()}", flush=True)


def answers(options: argparse.Namespace) -> None:
    """write answers.md from the notebooks' answer cells and the results"""
    from helpers.answers import find_notebooks, write_answers

    results = options.results or begin(options).folder / "results.json"
    out = Path(options.out or "answers.md")
    write_answers(find_notebooks(), results, out)
    print(f"Wrote {out} with the figures from {results}.")


def prefetch(options: argparse.Namespace) -> None:
    """download the full profile's model and data into the hub's cache, for work without a network"""
    from helpers.doctor import load_inputs

    print(f"Cached: {load_inputs(begin(options))}.")


def submit(options: argparse.Namespace) -> None:
    """check the hand-in, list what is missing, and pack it into one zip"""
    from helpers.submit import write_hand_in

    write_hand_in(options.notebooks, options.out, options.incomplete)


def doctor(options: argparse.Namespace) -> int:
    """check this machine (versions, device, disk, cache and more) and suggest a fix for each problem"""
    from helpers.doctor import examine

    return int(examine(begin(options)) > 0)


LAB = ("head", "rate", "steps", "data", "pretraining", "encoder", "biases", "seeds", "cost")
WHAT = [
    ("--profile", {"help": "quick (default, offline) or full (bert-tiny and IMDb); or set COURSE_PROFILE"}),
    ("--model", {"help": "hub id or folder; or set COURSE_MODEL"}),
    ("--data", {"help": "hub id or folder; or set COURSE_DATA"}),
]
ONE = [*WHAT, ("--precision", {"help": "fp32, bf16, or auto (bf16 if the GPU has it); or set COURSE_PRECISION"})]
MANY = [
    *ONE,
    ("--workers", {"type": positive, "help": "processes to share the runs (default: one per core, if memory allows)"}),
    ("--scheduler", {"help": "Dask scheduler whose workers share the runs, tcp://HOST:PORT"}),
]
PRUNE = ("--prune", {"action": "store_true", "help": "stop the less promising runs early"})
VERBS = {
    assignment: [*MANY, PRUNE],
    sweep: [*MANY, PRUNE, ("--policy", {"action": "append", "help": "policy to search; can be repeated"})],
    cell: [
        *ONE,
        ("--policy", {"default": "full", "help": "default: %(default)s"}),
        ("--learning-rate", {"type": float, "default": 3e-4, "help": "default: %(default)s"}),
        ("--batch-size", {"type": int, "default": 64, "help": "examples per step (default: %(default)s)"}),
        ("--seed", {"type": int, "default": Settings.seed, "help": "for classifier, data order and dropout"}),
    ],
    lab: [
        *MANY,
        ("experiments", {"metavar": "EXPERIMENT", "nargs": "+", "choices": LAB, "help": ", ".join(LAB)}),
        ("--seeds", {"type": positive, "default": 3, "help": "number of seeds (default: %(default)s)"}),
    ],
    answers: [
        WHAT[0],
        ("--results", {"type": Path, "help": "results file (default: that of the last run)"}),
        ("--out", {"help": "file to write (default: answers.md)"}),
    ],
    prefetch: [("--profile", {"default": "full", "help": "default: %(default)s"}), *WHAT[1:]],
    submit: [
        ("--notebooks", {"help": "folder with the saved notebooks (default: notebooks)"}),
        ("--out", {"help": "file to write (default: submission.zip)"}),
        ("--incomplete", {"action": "store_true", "help": "write the zip even if something is missing"}),
    ],
    doctor: WHAT,
}

if __name__ == "__main__":
    sys.exit(main())
