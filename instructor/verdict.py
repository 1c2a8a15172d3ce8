"""What is made of what comes out of a sandbox: it is never executed, and whatever it is, nothing here raises."""

import contextlib
import json
import re
from typing import Any

from helpers.checks.judge import CheckFailed, judge
from instructor.limits import Limits, Outcome
from instructor.written import clip


def read_told(result: str) -> dict[str, Outcome]:
    """How each task of a runner ended, of each name the first; a submission may have written there, too."""
    told: dict[str, Outcome] = {}
    for line in result.splitlines():
        with contextlib.suppress(Exception, RecursionError):
            name, said = read_strictly(line)
            ended = Outcome(int(said["code"]), str(said["reason"]), result=str(said["text"]))
            ended.describe(Limits())  # It knows this reason.
            told.setdefault(name, ended)
    return told


def judge_outcome(problem: str, ended: Outcome, expected: dict[str, Any], limits: Limits) -> tuple[str, bool]:
    """The verdict on one problem, and whether it is right; whatever the student's code has sent, it never raises."""
    if ended.reason:
        return f"Problem {problem}: {ended.describe(limits)}", False
    if not ended.result:
        return f"Problem {problem}: nothing came back; {ended.describe(limits)}", False
    try:
        return clip(judge(problem, read_strictly(ended.result), expected), 1000), True
    except CheckFailed as failure:
        return clip(str(failure), 1000), False
    except (Exception, RecursionError, MemoryError):
        return f"Problem {problem}: what came back is not what this problem's functions give.", False


def read_strictly(text: str) -> Any:
    """Parse JSON, without the numbers that are none."""
    found = json.loads(text)
    json.dumps(found, allow_nan=False)  # ValueError where a number is infinite, or none at all.
    return found


def describe_rerun(name: str, ended: Outcome, limits: Limits) -> str:
    """What nbval said of a notebook: for reading only, since the code could have said it itself."""
    if ended.reason or not ended.result:
        return f"{name}: did not run to its end: {ended.describe(limits)}"
    found = re.findall(r"^(PASSED|FAILED|ERROR) .*?Cell (\d{1,6})", ended.result, re.MULTILINE)
    cells = {int(cell) for _, cell in found}
    broken = sorted({int(cell) for state, cell in found if state != "PASSED"})
    if not cells:
        return f"{name}: did not run. {clip(ended.result.strip()[-300:], 300)}"
    stopped = f"; stopped with an error: {', '.join(map(str, broken[:12]))}" if broken else ""
    return f"{name}: {len(cells) - len(broken)} of {len(cells)} code cells ran{stopped}"
