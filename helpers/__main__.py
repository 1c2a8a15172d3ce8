"""The command line: python -m helpers VERB."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    from helpers.settings import CourseError

    try:
        options.run(options)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Running the same command again goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Full fine-tuning against BitFit, as a course assignment."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, run in VERBS.items():
        verb = verbs.add_parser(name, help=run.__doc__, description=run.__doc__)
        verb.set_defaults(run=run)
        verb.add_argument(
            "--profile", help="quick (default, offline) or full (bert-tiny and IMDb); also COURSE_PROFILE"
        )
        verb.add_argument("--model", help="hub id or folder; also COURSE_MODEL")
        verb.add_argument("--data", help="hub id or folder; also COURSE_DATA")
        if run in (assignment, sweep, cell):
            verb.add_argument("--precision", help="fp32, bf16, or auto: bf16 where it is quick; also COURSE_PRECISION")
        if run in (assignment, sweep):
            verb.add_argument("--workers", type=positive, help="processes that share the cells (default: one a core)")
            verb.add_argument("--prune", action="store_true", help="stop the less promising cells early")
            verb.add_argument(
                "--storage", help="database that several machines share (postgresql://...); also COURSE_STORAGE"
            )
        if run is sweep:
            verb.add_argument("--policy", action="append", help="full, bitfit, bitfit+head or head; may be repeated")
        if run is cell:
            verb.add_argument("--policy", default="full", help="default: %(default)s")
            verb.add_argument("--learning-rate", type=float, default=3e-4, help="default: %(default)s")
            verb.add_argument("--batch-size", type=positive, default=64, help="examples a step (default: %(default)s)")
            verb.add_argument("--seed", type=int, help="of the classifier, the order and the dropout")
            verb.add_argument("--threads", type=positive, default=1, help="of this one process (default: %(default)s)")
        if run is answers:
            verb.add_argument("--results", help="results file (default: results/PROFILE.json, else the last run's)")
            verb.add_argument("--out", default="answers.md", help="file to write (default: %(default)s)")
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def settings_of(options: argparse.Namespace):
    from helpers.settings import load_settings

    given = vars(options)
    return load_settings(options.profile, options.model, options.data, given.get("precision"), given.get("storage"))


def assignment(options: argparse.Namespace) -> None:
    """run the whole experiment: 40 runs, the test, tables, plots and answers"""
    from helpers import answers, plots, report
    from helpers.results import published
    from helpers.sweep import run_sweep

    settings = settings_of(options)
    notebooks = answers.find_notebooks()
    print(settings, flush=True)
    results = run_sweep(settings, workers=options.workers, prune=options.prune)
    print(f"\nProblem 3a\n{report.validation_table(results, published()).to_string()}")
    print(f"\nProblem 3b\n{report.test_table(results, published()).to_string()}")
    print(f"\n{report.describe_gap(results)}\n{report.describe_run(results)}")
    plots.save_plots(results, settings.folder / "plots")
    answers.write_answers(notebooks, settings.folder / "results.json", settings.folder / "answers.md")
    print(f"\nWritten to {settings.folder}: results.json, plots/, answers.md")


def sweep(options: argparse.Namespace) -> None:
    """train the cells that are not finished yet, and test the best ones"""
    from helpers import report
    from helpers.sweep import run_sweep

    settings = settings_of(options)
    print(settings, flush=True)
    results = run_sweep(settings, options.policy or ("full", "bitfit"), options.workers, options.prune)
    print(f"\n{report.validation_table(results).to_string()}\n\n{report.test_table(results).to_string()}")


def cell(options: argparse.Namespace) -> None:
    """train and test a single cell, also one beside the grid"""
    from dataclasses import replace

    import torch

    from helpers import report
    from helpers.results import load_results
    from helpers.sweep import run_cell

    settings = settings_of(options)
    if options.seed is not None:
        settings = replace(settings, seed=options.seed)
    torch.set_num_threads(options.threads)
    print(settings, flush=True)
    path = run_cell(settings, options.policy, options.learning_rate, options.batch_size)
    results = load_results(path)
    print(f"\n{report.validation_table(results).to_string()}\n\n{report.test_table(results).to_string()}")
    print(f"\n{report.describe_run(results)}\nWritten to {path}")


def answers(options: argparse.Namespace) -> None:
    """write answers.md from the notebooks' answer cells and the results"""
    from pathlib import Path

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


VERBS = {"assignment": assignment, "sweep": sweep, "cell": cell, "answers": answers, "prefetch": prefetch}

if __name__ == "__main__":
    sys.exit(main())
