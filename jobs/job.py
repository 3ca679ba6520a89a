"""Run or export a job the way NVFlare's examples do: `python jobs/job.py JOB [--data DIR] [-n 3] [--export]`.

The same command as `pneumonia-fl run`; `python jobs/job.py --help` lists the options.
"""

from pneumonia_fl.cli.main import run_job

if __name__ == "__main__":
    run_job()
