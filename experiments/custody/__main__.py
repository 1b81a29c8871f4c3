"""`make prove-custody`: look for the private key in a client's memory, wherever the key is.

Exits with 1 unless it is found where it must be, which shows that the search works, and absent
where it must be absent.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.custody.page import write
from experiments.custody.places import MUST_BE_ABSENT, PLACES
from experiments.custody.trial import KEY_TYPES, Outcome, Repetitions, examine

_PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "experiment.md"


def verdict(outcome: Outcome) -> str:
    """`as it must be`, or what is wrong."""
    if outcome.place == "pem":
        return "as it must be" if outcome.secrets else "NOT FOUND: the search does not work"
    if outcome.place not in MUST_BE_ABSENT:
        return "in-process either way" if outcome.custody == "in-process" else "WRONG CUSTODY"
    if outcome.secrets:
        return "FOUND: it must not be there"
    if outcome.custody == "in-process":
        return "WRONG CUSTODY"
    return "as it must be" if outcome.control else "NO CONTROL: the holder does not show it"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make prove-custody", description=__doc__)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=[*PLACES])
    parser.add_argument("--types", nargs="+", choices=KEY_TYPES, default=[*KEY_TYPES])
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE.name}, too")
    given = parser.parse_args()
    outcomes, wrong = [], 0
    for place in given.places:
        print(PLACES[place][0])
        for key_type in given.types:
            outcome = examine(place, key_type, Repetitions())
            outcomes.append(outcome)
            print(f"  {line(outcome)}", flush=True)
            wrong += verdict(outcome)[:1].isupper()
    if given.write:
        write(_PAGE, outcomes)
    print("not as it must be" if wrong else "all as it must be")
    return 1 if wrong else 0


def line(outcome: Outcome) -> str:
    found = sum(outcome.found.values())
    what = f"found in {found} of {outcome.searches} searches" if found else "absent"
    secrets = f" ({', '.join(sorted(outcome.secrets))})" if found else ""
    control = "" if outcome.control is None else f"; holder: {', '.join(sorted(outcome.control))}"
    return (
        f"{outcome.key_type:9} {outcome.custody:15} {what}{secrets}{control}; "
        f"{outcome.searches} searches, {outcome.bytes / 1e6:.0f} MB, {outcome.tokens} tokens: "
        f"{verdict(outcome)}"
    )


if __name__ == "__main__":
    sys.exit(main())
