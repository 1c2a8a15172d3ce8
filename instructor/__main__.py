"""The instructor's command line: python -m instructor VERB."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from helpers import tolerate_any_encoding
from helpers.__main__ import run_verb
from helpers.settings import write_atomically


def main(arguments: list[str] | None = None) -> int:
    tolerate_any_encoding()
    return run_verb(build_parser().parse_args(arguments))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instructor", description="The instructor's side of the course.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(run) -> argparse.ArgumentParser:
        verb = verbs.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        verb.set_defaults(run=run)
        return verb

    verb = add(release)
    verb.add_argument("folder", metavar="DIR", type=Path, help="folder to write; it must be empty, or not there yet")
    verb.add_argument("--repo", metavar="OWNER/NAME", default="", help="where on GitHub the student version will be")
    verb = add(grade)
    verb.add_argument("submissions", metavar="SUBMISSION", nargs="+", type=Path, help="zip, folder, or folder of them")
    verb.add_argument("--out", default="grades", type=Path, help="folder to write (default: %(default)s)")
    verb.add_argument("--workers", type=int, help="submissions at a time (default: one a core, if memory allows)")
    rerun = verb.add_mutually_exclusive_group()
    rerun.add_argument("--no-notebooks", action="store_const", const="none", help="do not re-execute the notebooks")
    rerun.add_argument("--full-rerun", action="store_const", const="full", help="re-execute them with the whole grid")
    verb.add_argument("--isolation", default="auto", help="auto (default: the best that works), namespaces or user")
    verb.add_argument("--gradescope", metavar="FILE", type=Path, help="write Gradescope's results.json of the one path")
    add(autograder).add_argument("file", metavar="FILE", type=Path, help="zip to write")
    return parser


def release(options: argparse.Namespace) -> None:
    """write the student version: no solutions, no answers, outputs cleared"""
    from instructor.release import write_release

    print(write_release(options.folder, repository=options.repo))


def grade(options: argparse.Namespace) -> int:
    """grade submissions in sandboxes: points, a sheet for each student, answers to read"""
    from instructor.autograder import make_results
    from instructor.grade import grade_class

    os.umask(os.umask(0) | 0o007)  # Grades are not for everybody, as whom submitted code may run.
    notebooks, single = options.no_notebooks or options.full_rerun or "corner", bool(options.gradescope)
    how = {"workers": options.workers, "notebooks": notebooks, "degree": options.isolation, "single": single}
    records = grade_class(options.submissions, options.out, **how)
    if options.gradescope:
        write_atomically(options.gradescope, json.dumps(make_results(records[0]), indent=1) + "\n")
    print(f"Written to {options.out}: grades.csv, answers_to_read.md and {len(records)} sheets.")
    failed = [record["student"] for record in records if not record["graded"]]
    if failed:
        print(f"error: the grader failed for {', '.join(failed)}. Run the same command again.", file=sys.stderr)
    return int(bool(failed))


def autograder(options: argparse.Namespace) -> None:
    """write Gradescope's autograder"""
    from instructor.autograder import write_autograder

    print(write_autograder(options.file))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # A polite request to end is a Ctrl-C.
    sys.exit(main())
