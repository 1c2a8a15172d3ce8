"""What the notebooks of the BitFit assignment import; students edit `exercises.py` only."""
