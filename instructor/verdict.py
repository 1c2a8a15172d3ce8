"""Turn a sandbox's output into verdicts; the output is never executed, and nothing here raises, whatever it is."""

import contextlib
import json
import re
from typing import Any

from helpers.checks.judge import CheckFailed, judge
from instructor.limits import Limits, Outcome
from instructor.written import clip

COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # what a terminal takes for colours


def read_told(result: str) -> dict[str, Outcome]:
    """How each of a runner's tasks ended; the first line for a name counts, as submissions may have added more."""
    told: dict[str, Outcome] = {}
    for line in result.splitlines():
        with contextlib.suppress(Exception, RecursionError):
            name, said = read_strictly(line)
            ended = Outcome(int(said["code"]), str(said["reason"]), result=str(said["text"]))
            ended.describe(Limits())  # Raises for an unknown reason.
            told.setdefault(name, ended)
    return told


def judge_outcome(problem: str, ended: Outcome, expected: dict[str, Any], limits: Limits) -> tuple[str, bool]:
    """The verdict on one problem, and whether it was passed; never raises, whatever the student's code has sent."""
    if ended.reason:
        return f"Problem {problem}: {ended.describe(limits)}", False
    if not ended.result:
        return f"Problem {problem}: nothing came back; {ended.describe(limits)}", False
    try:
        return clip(judge(problem, read_strictly(ended.result), expected), 1000), True
    except CheckFailed as failure:
        return clip(str(failure), 1000), False
    except (Exception, RecursionError, MemoryError):
        return f"Problem {problem}: what came back is not what this problem's functions return.", False


def read_strictly(text: str) -> Any:
    """Parse JSON, without NaN and infinity."""
    found = json.loads(text)
    json.dumps(found, allow_nan=False)  # Raises ValueError for these.
    return found


def describe_rerun(name: str, ended: Outcome, limits: Limits) -> str:
    """What nbval said about a notebook; for information only, since the student's code could have printed it."""
    if ended.reason or not ended.result:
        return f"{name}: did not run to its end: {ended.describe(limits)}"
    found = re.findall(r"^(PASSED|FAILED|ERROR) .*?Cell (\d{1,6})", ended.result, re.MULTILINE)
    cells = {int(cell) + 1 for _, cell in found}  # as Jupyter shows them; nbval begins with 0
    broken = sorted({int(cell) + 1 for state, cell in found if state != "PASSED"})
    if not cells:
        return f"{name}: did not run to its end. {clip(ended.result.strip()[-300:], 300)}"
    said = f"{name}: {len(cells) - len(broken)} of {len(cells)} code cells ran"
    if not broken:
        return said
    said += f"; stopped with an error: {', '.join(f'[{cell}]' for cell in broken[:12])}"
    # The last line of the first error says what it was: perhaps the machine's fault, and not the student's.
    first = re.search(r"^Traceback:.*?^(?=[_=]{5})", COLOUR.sub("", ended.result), re.MULTILINE | re.DOTALL)
    reasons = re.findall(r"^\w+: .*", first[0] if first else "", re.MULTILINE)
    return f"{said}, the first with {clip(reasons[-1], 300)}" if reasons else said
