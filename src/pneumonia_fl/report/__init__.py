"""Figures for people, drawn from a run folder or a prepared data set."""

from pneumonia_fl.runs.folder import MODEL_CARD as MODEL_CARD
from pneumonia_fl.runs.folder import REPORT as REPORT
