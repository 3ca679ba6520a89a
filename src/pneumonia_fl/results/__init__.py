"""Turn a finished job into a run folder: collect its files, evaluate, draw, report."""
