"""What a run in a sandbox may use, and how it ended."""

from dataclasses import dataclass

MEBI = 2**20


@dataclass(frozen=True)
class Limits:
    """What may be used, by all processes together; sizes in bytes."""

    seconds: float = 150.0
    cpu_seconds: float = 60.0
    memory: int = 3072 * MEBI
    processes: int = 64
    disk: int = 512 * MEBI
    files: int = 20_000
    output: int = 64 * 1024
    result: int = 16 * MEBI

    def __str__(self) -> str:
        return (
            f"{self.seconds:g} s, {self.cpu_seconds:g} s of CPU in total, {self.memory // MEBI} MiB of memory,"
            f" {self.processes} processes, {self.disk // MEBI} MiB of disk"
        )


@dataclass
class Outcome:
    """How a run ended: `reason` names the limit it broke, and is empty where it ended by itself with `code`."""

    code: int = 0
    reason: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    output: str = ""
    result: str = ""

    def describe(self, limits: Limits) -> str:
        """Say in one sentence how it ended."""
        broken = {
            "time": f"it did not come to an end within {limits.seconds:g} s",
            "cpu": f"it took more than {limits.cpu_seconds:g} s of CPU",
            "memory": f"it took more than {limits.memory // MEBI} MiB of memory",
            "processes": f"it started more than {limits.processes} processes",
            "disk": f"it wrote more than {limits.disk // MEBI} MiB or {limits.files:,} files",
            "result": f"it returned more than {limits.result // MEBI} MiB",
            "stop": "grading was stopped",
            "sandbox": f"the sandbox could not be set up ({self.output.strip()[-300:]})",
        }
        if self.reason:
            return f"stopped: {broken[self.reason]}."
        if self.code < 0:
            return f"its process was killed by signal {-self.code}."
        return f"its process ended with exit code {self.code}."
