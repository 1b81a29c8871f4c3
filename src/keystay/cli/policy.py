"""The command `keystay policy check`."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystay.cli.options import client_argument, json_option
from keystay.cli.output import print_json, print_table, say
from keystay.errors import PolicyError

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """Compare keys with the policy that is configured for them."""


@policy.command()
@client_argument
@json_option
def check(client: str | None, as_json: bool) -> int:
    """Open CLIENT's key and show every rule of its policy with what is so, and how that is known.

    Exits with 3 if a rule is violated. Nothing is signed.
    """
    from keystay.cli.publication import look
    from keystay.config import load_config
    from keystay.ops.report.examination import examine

    config = load_config()
    is_asked = config.policy_of(config.client(client)).require_published
    found = examine(config, client, look=look if is_asked else None)
    if found.error is not None:
        raise found.error
    rows = [asdict(finding) for finding in found.findings]
    if as_json:
        print_json({"client": found.name, "satisfied": found.satisfied, "rules": rows})
    elif not rows:
        say("The policy demands nothing.")
    else:
        print_table(
            [
                {
                    "rule": finding.rule,
                    "demanded": finding.demanded,
                    "found": finding.found,
                    "evidence": finding.evidence,
                    "verdict": "ok" if finding.satisfied else "VIOLATED",
                }
                for finding in found.findings
            ]
        )
    return 0 if found.satisfied else PolicyError.exit_code
