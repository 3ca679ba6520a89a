"""Run all benchmarks, or those named: `python -m bench [--quick] [preparation] [deployment] …`."""

import importlib

from bench.options import parse

NAMES = (
    "preparation",
    "loading",
    "training",
    "aggregation",
    "federation",
    "scale",
    "exchange",
    "commands",
    "deployment",
)


def main() -> None:
    """Run each benchmark module's `run`."""
    options = parse(NAMES)
    for name in options.names:
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(f"bench.{name}").run(options)


if __name__ == "__main__":
    main()
