"""Figures for people, drawn from a run folder or a prepared data set."""
