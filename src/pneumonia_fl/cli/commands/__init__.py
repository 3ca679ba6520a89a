"""Define the commands that work on this machine: data, run, evaluate, report and the like."""
