"""What the command line of the benchmarks says."""

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """For every benchmark; each takes what concerns it.

    `quick`: small work, once, to see that a benchmark runs; its figures mean nothing.
    """

    names: tuple[str, ...]
    quick: bool
    repeats: int
    sites: tuple[int, ...]
    out: Path | None


def parse(all_names: tuple[str, ...]) -> Options:
    """Read the words after `python -m bench`."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(all_names)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small work, once: see that it runs")
    parser.add_argument("--repeats", type=int, default=3, help="turns of which the median is taken")
    parser.add_argument("--sites", type=int, nargs="+", default=(), help="scale, kits: numbers of sites")
    parser.add_argument("--out", type=Path, help="scale: JSON for scripts/make_scale_chart.py")
    words = parser.parse_args()
    if unknown := set(words.names) - set(all_names):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join(all_names)}")
    repeats = 1 if words.quick else words.repeats
    return Options(tuple(words.names) or all_names, words.quick, repeats, tuple(words.sites), words.out)
