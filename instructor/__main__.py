"""The instructor's command line: python -m instructor VERB."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from helpers.__main__ import main, positive
from helpers.settings import write_atomically


def release(options: argparse.Namespace) -> None:
    """write the student version: no solutions, no answers, outputs cleared"""
    from instructor.release import write_release

    print(write_release(options.folder, repository=options.repo))


def grade(options: argparse.Namespace) -> int:
    """grade submissions in sandboxes: write points, a sheet for each student, and the answers to read"""
    from instructor.autograder import make_results
    from instructor.grade import grade_class
    from instructor.sheet import read_table

    os.umask(os.umask(0) | 0o007)  # Grades are private, and submitted code may run as any user.
    how = {"workers": options.workers, "notebooks": not options.no_notebooks, "degree": options.isolation}
    records = grade_class(options.submissions, options.out, **how, single=bool(options.gradescope))
    if options.gradescope:
        write_atomically(options.gradescope, json.dumps(make_results(records[0]), indent=1) + "\n")
    print(f"Written to {options.out}: grades.csv, answers_to_read.md and the sheets ({len(records)}).")
    rows, given = read_table(options.out / "grades.csv")[0].values(), {record["submission"] for record in records}
    if others := [row for row in rows if row.get("submission") and row["submission"] not in given]:
        print(f"Rows of grades.csv whose submissions were not given this time: {len(others)}.")
    failed = [record["student"] for record in records if not record["graded"]]
    if failed:
        print(f"error: the grader failed for {', '.join(failed)}. Run the same command again.", file=sys.stderr)
    return int(bool(failed))


def autograder(options: argparse.Namespace) -> None:
    """write Gradescope's autograder"""
    from instructor.autograder import write_autograder

    print(write_autograder(options.file))


DEGREES = {"choices": ("auto", "namespaces", "user"), "default": "auto"}
VERBS = {
    release: [
        ("folder", {"metavar": "DIR", "type": Path, "help": "folder to write; must be empty or not exist yet"}),
        ("--repo", {"metavar": "OWNER/NAME", "default": "", "help": "the student version's place on GitHub"}),
    ],
    grade: [
        ("submissions", {"metavar": "PATH", "nargs": "+", "type": Path, "help": "zip, folder, or folder of these"}),
        ("--out", {"default": "grades", "type": Path, "help": "folder to write (default: %(default)s)"}),
        ("--workers", {"type": positive, "help": "submissions at a time (default: one per core, if memory allows)"}),
        ("--no-notebooks", {"action": "store_true", "help": "do not re-execute the notebooks"}),
        ("--isolation", DEGREES | {"help": "default: %(default)s, the strongest that works"}),
        ("--gradescope", {"metavar": "FILE", "type": Path, "help": "also write Gradescope's results.json (one path)"}),
    ],
    autograder: [("file", {"metavar": "FILE", "type": Path, "help": "zip to write"})],
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Treat it like Ctrl-C.
    sys.exit(main(package="instructor", verbs=VERBS))
