"""The command `keystay demo`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path

import click
from rich.console import Console
from rich.highlighter import JSONHighlighter

from keystay.errors import BackendError, KeystayError

__all__ = ["demo"]

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
_TOKEN = "keystay-demo"  # noqa: S105 - the label of a PKCS#11 token
_CLIENT_ID = "demo-client"


@click.command()
def demo() -> None:
    """Show the main job, whole, on this machine.

    A key is made in a SoftHSM token (or, without SoftHSM, in a PEM file), a strict SMART server
    is started on loopback, the public key is registered, a token is asked for and a Patient is
    read. Nothing leaves this machine, and nothing stays on it.
    """
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="keystay-demo-") as folder:
        _run(console, Path(folder))


def _run(console: Console, folder: Path) -> None:
    import httpx

    from keystay.jwk import JWKSet
    from keystay.signer import open_signer
    from keystay.testing.server import SmartTestServer
    from keystay.tokens.client import TokenClient

    steps = iter(range(1, 10))

    def step(title: str, why: str) -> None:
        console.print(f"\n[bold]{next(steps)}. {title}[/bold]")
        console.print(f"   {why}")

    console.print(
        "[bold]keystay demo[/bold]: a key signs where it lives, a server grants a token, "
        "a Patient is read."
    )
    step("Make a key", "In production this happens once, in your HSM or KMS.")
    uri = _make_key(console, folder)
    with open_signer(uri) as signer, SmartTestServer() as server:
        console.print(f"   key type  {signer.key_type}, signs with {signer.algorithm}")
        console.print(f"   kid       {signer.kid}")
        step("Where is the private key while it signs?", signer.custody.reason)
        console.print(f"   custody   {signer.custody.location} ({signer.custody.evidence})")
        for name, fact in signer.custody.facts.items():
            console.print(f"   {name:<22} {fact.value} ({fact.evidence})")

        step(
            "Start a strict SMART server and register the public key",
            "Servers only ever see the public JWK Set.",
        )
        keys = JWKSet.from_signers([signer])
        server.register(_CLIENT_ID, jwks=keys)
        console.print(f"   FHIR base URL  {server.fhir_base_url}")
        _show(console, keys.to_dict())

        step(
            "Get an access token",
            "Discovery, a fresh assertion signed by the key, one POST to the token endpoint.",
        )
        with TokenClient(
            fhir_base_url=server.fhir_base_url,
            client_id=_CLIENT_ID,
            signer=signer,
            scope="system/Patient.rs",
            allow_insecure_loopback=True,
        ) as client:
            token = client.token()
            sent = next(e for e in reversed(server.log.events) if e.kind == "token")
            console.print("   The assertion that was sent, decoded (its signature is not shown):")
            _show(console, {"header": sent.header, "claims": sent.claims})
            console.print(
                f"   granted   scope {token.scope}, for {token.lifetime:.0f} s "
                "(the token itself is not shown)"
            )

            step(
                "Read a Patient",
                "httpx with auth=client.auth(); the token goes to this origin only.",
            )
            with httpx.Client(base_url=client.fhir_base_url, auth=client.auth()) as fhir:
                response = fhir.get("Patient/123")
            if response.status_code != httpx.codes.OK:
                raise KeystayError(f"The FHIR server answered HTTP {response.status_code}.")
            _show(console, response.json())
    console.print(
        "\n[bold green]Done.[/bold green] Next: keystay key generate --help, and docs/tutorials."
    )


def _make_key(console: Console, folder: Path) -> str:
    """Make a key in SoftHSM if it can be had, else in a file; return its URI."""
    from keystay.backends.port import BackendContext, GeneratesKeys
    from keystay.backends.registry import default_registry
    from keystay.key_uri import parse

    reason = "SoftHSM is not installed (Debian: apt-get install softhsm2)"
    module = next((m for m in _MODULES if Path(m).exists()), None)
    installed = {entry.scheme for entry in default_registry().entries()}
    if "pkcs11" not in installed:
        module, reason = None, "keystay-pkcs11 is not installed"
    if module and shutil.which("softhsm2-util"):
        uri = _make_softhsm_token(folder, module)
        console.print(
            f"   SoftHSM token {_TOKEN!r} made in {folder}; its PIN is in a file only you can read."
        )
    else:
        uri = f"file:{folder}/client.pem"
        console.print(f"   [yellow]{reason}.[/yellow] Going on with a PEM key.")
        console.print(
            "   What that costs: the private key is in a file and in this process's "
            "memory; whoever reads either has it."
        )
    console.print(f"   key URI   {uri}")
    store = default_registry().open_store(parse(uri), BackendContext())
    try:
        if not isinstance(store, GeneratesKeys):
            raise BackendError("This backend cannot generate keys.")
        store.generate_key("P-384")
    finally:
        store.close()
    return uri


def _make_softhsm_token(folder: Path, module: str) -> str:
    pin = secrets.token_hex(8)
    pin_file, tokens, settings = folder / "pin", folder / "tokens", folder / "softhsm2.conf"
    pin_file.touch(mode=0o600)
    pin_file.write_text(pin, encoding="ascii")
    tokens.mkdir(mode=0o700)
    settings.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n",
        encoding="utf-8",
    )
    os.environ["SOFTHSM2_CONF"] = str(settings)
    # softhsm2-util takes PINs as arguments only; this one is for a throw-away token.
    command = ["softhsm2-util", "--init-token", "--free", "--label", _TOKEN]
    command += ["--pin", pin, "--so-pin", secrets.token_hex(8)]
    made = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if made.returncode != 0:
        raise BackendError(
            f"softhsm2-util could not make a token (exit code {made.returncode}).",
            hint="Check the SoftHSM installation: softhsm2-util --version.",
        )
    return f"pkcs11:token={_TOKEN};object=demo?module-path={module}&pin-source=file:{pin_file}"


def _show(console: Console, document: object) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    console.print(JSONHighlighter()(textwrap.indent(text, "   ")))
