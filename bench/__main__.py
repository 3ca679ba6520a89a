"""Run all benchmarks, or those named: `python -m bench [preparation] [deployment] …`."""

import importlib
import sys

NAMES = ("preparation", "loading", "training", "aggregation", "federation", "deployment")


def main() -> None:
    """Run each benchmark module's `run`."""
    unknown = set(sys.argv[1:]) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(f"bench.{name}").run()


if __name__ == "__main__":
    main()
