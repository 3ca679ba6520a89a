"""Figures and reports from a run folder or a prepared data set."""
