"""The command `keystay report`."""

from __future__ import annotations

from pathlib import Path

import click

from keystay.cli.output import print_data, say
from keystay.errors import ConfigurationError

__all__ = ["report"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("clients", nargs=-1, metavar="[CLIENT]...")
@click.option(
    "--format", "form", type=click.Choice(["json", "html", "md"]), default="md", show_default=True,
    help="For machines, for people, for tickets.",
)  # fmt: skip
@click.option("--out", type=_FILE, metavar="FILE", help="Write it to FILE instead of stdout.")
@click.option("--offline", is_flag=True, help="Do not ask JWKS URLs.")
@click.option(
    "--verify", "verified", type=_FILE, metavar="FILE", help="Check that FILE is as it was made."
)
@click.option("--digest", metavar="HEX", help="With --verify: the digest that was noted.")
def report(
    clients: tuple[str, ...],
    form: str,
    out: Path | None,
    offline: bool,
    verified: Path | None,
    digest: str | None,
) -> None:
    """Report for an auditor where each client's key is, how that is known, and what policy says.

    Opens each key; signs nothing. Without CLIENT, all. The digest of the report goes to stderr.
    """
    if digest is not None and verified is None:
        raise click.UsageError("--digest goes with --verify FILE.")
    if verified is not None:
        _verify(verified, digest)
        return
    from keystay.cli.publication import look
    from keystay.config import load_config
    from keystay.files import write_atomically
    from keystay.ops.report import build, seal
    from keystay.ops.report.formats import FORMATS

    made = build(load_config(), clients, look=None if offline else look)
    content, sealed = seal(FORMATS[form](made))
    if out is None:
        print_data(content)
    else:
        try:
            write_atomically(out, content)
        except OSError as error:
            raise ConfigurationError(
                f"{out} cannot be written: {error.strerror}.",
                hint="Check the folder, its permissions and the space left.",
                code="output-unwritable",
            ) from error
    say(
        f"{made.satisfied} of {len(made.clients)} keys are what their policy demands. "
        f"SHA-256 {sealed}"
    )


def _verify(path: Path, digest: str | None) -> None:
    from keystay.ops.report import verify

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", code="report-unreadable"
        ) from error
    print_data(verify(content, digest))
