"""What the notebooks of the BitFit assignment import; students edit `exercises.py` only."""

import logging

# Where it may not write into the home folder, or draws for the first time, matplotlib says so on stderr: in a notebook
# that is an output which no other machine has.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
