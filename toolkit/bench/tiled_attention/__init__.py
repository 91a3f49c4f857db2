"""Accuracy, time and memory of attention over adaptive tiles beside dense attention."""
