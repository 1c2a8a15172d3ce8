"""The command line: python -m helpers VERB."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    from helpers.settings import CourseError

    try:
        return options.run(options) or 0
    except (CourseError, NotImplementedError) as error:
        if not isinstance(error, CourseError) and not str(error).startswith("Problem "):
            raise  # It is no exercise that waits to be written.
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
    for name, run in VERBS.items():
        verb = verbs.add_parser(name, help=run.__doc__, description=run.__doc__)
        verb.set_defaults(run=run)
        if run not in WITHOUT_SETTINGS:
            verb.add_argument(
                "--profile", help="quick (default, offline) or full (bert-tiny and IMDb); also COURSE_PROFILE"
            )
            verb.add_argument("--model", help="hub id or folder; also COURSE_MODEL")
            verb.add_argument("--data", help="hub id or folder; also COURSE_DATA")
        if run in (assignment, sweep, cell, lab):
            verb.add_argument("--precision", help="fp32, bf16, or auto: bf16 where it is quick; also COURSE_PRECISION")
        if run in (assignment, sweep, lab):
            verb.add_argument("--workers", type=positive, help="processes that share the cells (default: one a core)")
        if run in (assignment, sweep):
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
        if run is lab:
            verb.add_argument("experiments", metavar="EXPERIMENT", nargs="+", choices=LAB, help=", ".join(LAB))
            verb.add_argument("--seeds", type=positive, default=3, help="runs with other seeds (default: %(default)s)")
        if run is answers:
            verb.add_argument("--results", help="results file (default: results/PROFILE.json, else the last run's)")
            verb.add_argument("--out", default="answers.md", help="file to write (default: %(default)s)")
        if run is submit:
            verb.add_argument("--notebooks", help="folder of the saved notebooks (default: notebooks)")
            verb.add_argument("--out", default="submission.zip", help="file to write (default: %(default)s)")
            verb.add_argument("--incomplete", action="store_true", help="write the zip although something is missing")
        if run is grade:
            verb.add_argument("submissions", metavar="SUBMISSION", nargs="*", help="zip, folder, or folder of them")
            verb.add_argument("--out", default="grades", help="folder to write (default: %(default)s)")
            verb.add_argument("--workers", type=positive, help="submissions at a time (default: one a core)")
            rerun = verb.add_mutually_exclusive_group()
            rerun.add_argument("--no-notebooks", action="store_true", help="do not re-execute the notebooks")
            rerun.add_argument("--full-rerun", action="store_true", help="re-execute them with the whole grid")
            verb.add_argument("--isolation", default="auto", choices=("auto", "namespaces", "user", "limits"))
            verb.add_argument("--gradescope-zip", metavar="FILE", help="write Gradescope's autograder instead")
            verb.add_argument("--gradescope-results", metavar="FILE", help="write the one submission's results.json")
        if run is release:
            verb.add_argument("folder", metavar="DIR", help="folder to write; it must be empty, or not there yet")
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


def lab(options: argparse.Namespace) -> None:
    """measure what limits BitFit, one experiment at a time; cost is what each policy costs"""
    from helpers.lab import measure_cost, run_experiment, summarise, tabulate_costs

    settings = settings_of(options)
    print(settings, flush=True)
    for experiment in options.experiments:
        if experiment == "cost":
            print(tabulate_costs(measure_cost(settings)).to_string())
            continue
        results = run_experiment(settings, experiment, range(options.seeds), options.workers)
        print(f"\n{experiment}\n{summarise(results).to_string()}", flush=True)


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


def release(options: argparse.Namespace) -> None:
    """write the student version: no solutions, no answers, outputs cleared"""
    from helpers.instructor.release import write_release

    print(write_release(Path(options.folder)))


def grade(options: argparse.Namespace) -> None:
    """grade submissions in sandboxes: points, a sheet for each student, answers to read"""
    from helpers.instructor import gradescope
    from helpers.instructor.grade import grade_class
    from helpers.settings import CourseError

    if options.gradescope_zip:
        print(gradescope.write_autograder(Path(options.gradescope_zip)))
        return
    if not options.submissions:
        raise CourseError("Name the submissions: `python -m helpers grade submissions/ --out grades`.")
    notebooks = "none" if options.no_notebooks else "full" if options.full_rerun else "corner"
    paths, out = [Path(name) for name in options.submissions], Path(options.out)
    records = grade_class(paths, out, options.workers, notebooks, options.isolation)
    if options.gradescope_results:
        gradescope.write_results(records[0], Path(options.gradescope_results))
    print(f"Written to {out}: grades.csv, answers_to_read.md and {len(records)} sheets.")


LAB = ("head", "rate", "steps", "data", "pretraining", "encoder", "biases", "cost")
VERBS = {"assignment": assignment, "sweep": sweep, "cell": cell, "lab": lab, "answers": answers, "prefetch": prefetch}
VERBS |= {"submit": submit, "doctor": doctor}
WITHOUT_SETTINGS = [submit, release, grade]
if Path(__file__).with_name("instructor").is_dir():  # The student version has no such folder.
    VERBS |= {"release": release, "grade": grade}

if __name__ == "__main__":
    sys.exit(main())
