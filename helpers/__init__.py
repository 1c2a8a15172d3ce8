"""What the notebooks of the BitFit assignment import; students edit `exercises.py` only."""

import logging
import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036  (Older Pythons cannot read the other files, the doctor's among them.)
    raise SystemExit(f"Python 3.10 or newer is needed; {sys.executable} is {sys.version.split()[0]}.")

# Matplotlib writes a note to stderr when it cannot write to the home folder, or builds its font cache: in a notebook,
# an output that no other machine has.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

# One process trains a run. With these variables of torchrun, srun or mpirun, the Trainer would wait for others forever.
for variable in ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
    os.environ.pop(variable, None)


def tolerate_any_encoding() -> None:
    """Print `?` for characters that the terminal's encoding lacks (such as `·` in cp932), instead of raising errors."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A notebook's streams accept every character.
            stream.reconfigure(errors="replace")
