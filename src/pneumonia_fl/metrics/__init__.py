"""Compute exact and pooled metrics, calibration, curves and intervals from scores or score histograms."""
