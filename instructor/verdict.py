"""What is made of what comes out of a sandbox: it is never executed, and whatever it is, nothing here raises."""

import json
import math
from dataclasses import replace
from typing import Any

from helpers.checks.judge import CheckFailed, judge
from instructor.limits import Limits, Outcome


def judge_run(
    graded: dict[str, Any], left: list[str], outcome: Outcome, told: dict[str, Any], expected: dict[str, Any],
    limits: Limits, whole: Limits,
) -> list[str]:  # fmt: skip
    """Judge what a run has told of the problems that were left; returns those that another run has to do."""
    for done, problem in enumerate(left, start=1):
        ended, within = (told[problem], limits) if problem in told else (replace(outcome, result=""), whole)
        said, passed = judge_outcome(problem, ended, expected[problem], within)
        graded["said"][problem], graded["passed"][problem] = said, passed
        if ended.reason in ("time", "cpu", "memory") and f"{problem} imported" not in told:
            # It never came as far as the first function, and would not for the next problem.
            why = f"Not run: exercises.py could not be imported; {ended.describe(within)}"
            graded["said"] |= dict.fromkeys(left[done:], why)
            return []
        if problem not in told:
            return left[done:]
    return []


def judge_outcome(problem: str, ended: Outcome, expected: dict[str, Any], limits: Limits) -> tuple[str, bool]:
    """The verdict on one problem, and whether it is right; whatever the student's code has sent, it never raises."""
    imported, _, text = ended.result.partition("\n")
    if ended.reason:
        return f"Problem {problem}: {ended.describe(limits)}", False
    if imported != '"imported"' or not text:
        return f"Problem {problem}: nothing came back; {ended.describe(limits)}", False
    try:
        return judge(problem, read_strictly(text), expected), True
    except CheckFailed as failure:
        return clip(str(failure), 1000), False
    except (Exception, RecursionError, MemoryError):
        return f"Problem {problem}: what came back is not what this problem's functions give.", False


def read_strictly(text: str) -> Any:
    """Parse JSON, without the numbers that are none."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    def parse_finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            refuse(digits)
        return number

    return json.loads(text, parse_constant=refuse, parse_float=parse_finite)


def describe_rerun(name: str, ended: Outcome | None, outcome: Outcome, limits: Limits) -> str:
    """What nbval said of a notebook: for reading only, since the code could have said it itself."""
    if ended is None or ended.reason:
        return f"{name}: did not run to its end: {(ended or outcome).describe(limits)}"
    text = ended.result
    found: dict[str, set[str]] = {state: set() for state in ("PASSED", "FAILED", "ERROR")}
    for line in text.splitlines():
        state, _, rest = line.partition(" ")
        if state in found and "Cell " in rest:
            found[state].add(rest.split("Cell ")[1].split()[0][:6])
    broken = sorted(found["FAILED"] | found["ERROR"], key=lambda cell: (len(cell), cell))
    total = len(found["PASSED"].union(broken))
    if not total:
        return f"{name}: did not run. {clip(text.strip()[-300:], 300)}"
    stopped = f"; stopped with an error: {', '.join(broken[:12])}" if broken else ""
    return f"{name}: {total - len(broken)} of {total} code cells ran{stopped}"


def clip(text: str, length: int) -> str:
    """One line of visible signs."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."
