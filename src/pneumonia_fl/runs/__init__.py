"""Describe a run on disk: its folder, its journal, its processes, and what to clean up."""
