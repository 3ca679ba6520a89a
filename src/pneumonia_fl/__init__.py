"""Federated learning of a chest X-ray pneumonia classifier. For research, not for diagnosis."""

__version__ = "0.1.0"

DISCLAIMER = "For research and teaching only. Not a medical device; not for diagnosis."
INTENDED_USE = (
    "Research on federated learning with paediatric chest X-rays (anterior-posterior, ages 1 to 5)."
)
