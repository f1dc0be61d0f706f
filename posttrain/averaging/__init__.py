"""Averaging of weights: one method per file, each with `Config` and `average()`."""
