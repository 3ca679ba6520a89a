"""Figures for people, drawn from a run folder or a prepared data set."""

from pneumonia_fl.runs import MODEL_CARD as MODEL_CARD
from pneumonia_fl.runs import REPORT as REPORT
