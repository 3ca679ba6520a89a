"""Run many trainings to answer one question: comparisons, sweeps, repeats."""
