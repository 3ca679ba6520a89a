"""Figures for people, drawn from a run folder or a prepared data set."""

REPORT, MODEL_CARD = "report.html", "model_card.md"
REPORT_FILES = (REPORT, MODEL_CARD)
"""What `report.build` writes into a folder; neither holds an image."""
