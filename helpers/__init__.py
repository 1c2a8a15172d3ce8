"""What the notebooks of the BitFit assignment import; students edit `exercises.py` only."""

import logging
import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036  (Older Pythons cannot read the other files, the doctor's among them.)
    raise SystemExit(f"Python 3.10 or newer is needed; {sys.executable} is {sys.version.split()[0]}.")

# Where it may not write into the home folder, or draws for the first time, matplotlib says so on stderr: in a notebook
# that is an output which no other machine has.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

# One process trains a run. By what torchrun, srun or mpirun has left here, the Trainer would wait for others for ever.
for variable in ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
    os.environ.pop(variable, None)


def tolerate_any_encoding() -> None:
    """Print what the terminal's encoding cannot show (such as `·` in cp932) as `?`, in place of ending in an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A notebook's streams take every character.
            stream.reconfigure(errors="replace")
