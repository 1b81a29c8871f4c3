"""`python -m benchmarks [--smoke] [NAME…]`"""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = (
    "assertion",
    "pem",
    "header",
    "imports",
    "clients",
    "coldstart",
    "hops",
    "processes",
    "renewals",
    "softhsm",
    "threads",
)


def main() -> int:
    """Run the benchmarks named, or all; print tables and whether each goal was met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
    parser.add_argument("--smoke", action="store_true", help="few rounds: does it run at all?")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}")
        for goal in module.run(smoke=arguments.smoke):
            print(f"  {goal}")
    if arguments.smoke:
        print("\nA smoke run shows that the benchmarks run; its figures mean nothing.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
