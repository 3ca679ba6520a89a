"""Deliver metrics, parameters and models to MLflow."""
