"""The `keystay` command: finds the subcommand and turns errors into messages and exit codes.

Exit codes: 0 done, 2 usage or configuration, 3 key or backend, 4 network, 5 refused by the
authorization server. There is no traceback without --debug.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from keystay.cli.output import print_error, say
from keystay.errors import ConfigurationError, KeystayError

__all__ = ["app", "run"]

# Where each command lives; imported when it is called or listed.
_COMMANDS = {
    "assertion": "Print a client assertion, for debugging.",
    "backends": "List the installed backends; imports none.",
    "config": "Show every setting and where it came from.",
    "demo": "Show the main job, whole, on this machine.",
    "get": "Make one authorised FHIR read.",
    "jwks": "Print the JWK Set to publish, serve it, check it.",
    "key": "Generate, list and show keys where they live.",
    "register": "Register a client with a server; read, change, delete that.",
    "rotate": "Replace a client's key without a failed request.",
    "store": "Make keys for token stores.",
    "policy": "Compare keys with their policy.",
    "report": "Report for an auditor where keys are.",
    "token": "Print an access token.",
}

_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug of ours


class _LazyGroup(click.Group):
    """A group whose commands are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"keystay.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Log to stderr and show tracebacks.")
@click.version_option(package_name="keystay", prog_name="keystay")
def app(debug: bool) -> None:
    """SMART Backend Services tokens, signed where your keys stay."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("keystay").setLevel(level)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Default those of the process.

    Returns:
        The exit code.
    """
    given: list[str] = list(sys.argv[1:] if arguments is None else arguments)
    # Wherever it stands, so that it can be added at the end of a command that failed.
    debug, as_json = "--debug" in given, "--json" in given
    if debug:
        given = ["--debug", *(a for a in given if a != "--debug")]
    try:
        result: Any = app.main(args=given, prog_name="keystay", standalone_mode=False)
    except KeystayError as error:
        if debug:
            traceback.print_exc()
        print_error(error, as_json=as_json)
        return error.exit_code
    except click.exceptions.Abort:
        say("Interrupted.")
        return 130
    except click.ClickException as error:
        if as_json:
            usage = ConfigurationError(
                error.format_message(), hint="See keystay --help.", code="usage"
            )
            print_error(usage, as_json=True)
        else:
            error.show(sys.stderr)
        return error.exit_code
    except SystemExit:  # click and rich, when whoever reads stdout has gone
        return 0
    except Exception as error:  # noqa: BLE001 - whatever it is, no traceback
        # The text of a foreign error may quote anything; its type may not.
        if debug:
            traceback.print_exc()
        bug = KeystayError(
            f"keystay failed unexpectedly ({type(error).__name__}).",
            cause="A bug in keystay.",
            hint="Run again with --debug and report the traceback, after reading it.",
            code="internal-error",
        )
        print_error(bug, as_json=as_json)
        return _INTERNAL
    return result if isinstance(result, int) else 0
