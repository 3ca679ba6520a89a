"""Run a job in NVFlare's simulator."""
