"""Runs the blocks of one page in the current directory; exits with 1 at the first that fails.

usage: run_page.py PAGE PLACES

PLACES is a JSON object: what a page calls a place, and what it is here.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.docs import blocks

STATE = Path(".shell-state")


class WrongOutputError(Exception):
    """A command did not do what the page says."""


def main(page: Path, places: Mapping[str, str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks.parse(page.read_text()):
        if block.not_run or block.language in blocks.PROSE:
            continue
        text = block.text
        for name, place in places.items():
            text = text.replace(name, place)
        try:
            if block.language == "python":
                run_python(text, page, block.line, namespace)
            elif block.language == "console":
                run_console(text, block.exits, places)
            elif block.language == "toml":
                check_toml(text)
            elif block.language == "json":
                json.loads(text)
            else:
                raise WrongOutputError(f"no way to run {block.language or 'a bare fence'}")
        except Exception as error:  # noqa: BLE001  (whatever an example raises)
            if not isinstance(error, WrongOutputError):
                traceback.print_exc()
            sys.exit(f"{page}:{block.line}: {error}")


def run_python(text: str, page: Path, line: int, namespace: dict[str, Any]) -> None:
    # Blank lines in front, so that a traceback points into the page.
    code = compile("\n" * line + text, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def run_console(text: str, exits: int, places: Mapping[str, str]) -> None:
    steps = blocks.commands(text)
    for step in steps:
        # Each command is a shell of its own; what it exports and where it goes is carried on.
        script = (
            f"if [[ -f {STATE.resolve()} ]]; then . {STATE.resolve()}; fi\n{step.line}\n"
            f'code=$?; {{ export -p; printf "cd %q\\n" "$PWD"; }} >{STATE.resolve()}; exit "$code"'
        )
        done = subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        wanted = exits if step is steps[-1] else 0
        if done.returncode != wanted:
            raise WrongOutputError(
                f"$ {step.line}\nexit code {done.returncode}, not {wanted}:\n{done.stdout}"
            )
        output, expected = done.stdout, step.expected
        for name, place in places.items():
            output, expected = output.replace(place, name), expected.replace(place, name)
        if expected.strip() and not blocks.matches(expected, output):
            raise WrongOutputError(f"$ {step.line}\n--- shown:\n{expected}--- came:\n{output}")


def check_toml(text: str) -> None:
    import keystay

    Path("keystay.toml").write_text(text)
    keystay.load_config("keystay.toml")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
