"""Start, stop and watch the kits on this machine, and the MLflow server beside them."""
