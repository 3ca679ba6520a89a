"""Turn a job file into an NVFlare job."""
