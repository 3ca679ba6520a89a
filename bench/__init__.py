"""Measurements, never tests: `make bench` prints ratios taken in one run."""
