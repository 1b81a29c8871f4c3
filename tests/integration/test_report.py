"""`keystay report` for three real clients, in every format, and in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.config import ClientConfig, Config, open_client_signer
from keystay.ops.publishing.applications import Answers
from keystay.ops.publishing.server import SetServer
from keystay.ops.publishing.source import KeySource
from keystay.ops.report import verify
from keystay.ops.rotation.rotation import Rotation
from tests.support.missing import require_program
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.p11kit import P11KitServer
    from tests.support.softhsm import SoftHSM

SCREENSHOT = Path(__file__).parents[2] / "docs" / "images" / "report.png"
CONFIG = """\
[clients.epic-prod]
fhir_base_url = "https://ehr.example.org/fhir/r4"
client_id = "nightly-export"
key = "{remoted}"
key_created = 2026-01-15

[clients.quality-reporting]
fhir_base_url = "https://fhir.example.net/r4"
client_id = "quality"
key = "{google}"

[clients.legacy]
fhir_base_url = "https://old.example.com/dstu"
client_id = "legacy"
key = "{pem}"

[policy]
custody = "out-of-process"
algorithms = ["ES384", "RS384"]
min_rsa_bits = 3072
min_ec_bits = 384
"""


@pytest.fixture
def folder(
    tmp_path: Path, p11kit: P11KitServer, softhsm: SoftHSM, gcp_kms: GcpKmsServer, pem_file: Path
) -> Path:
    """A folder with keystay.toml: a remoted token, Google's server, and a PEM file."""
    if "report-2026" not in softhsm.pkcs11_tool("--list-objects", "--type", "pubkey"):
        softhsm.generate_key("EC:secp384r1", "report-2026", "52")
    text = CONFIG.format(
        remoted=p11kit.key_uri("report-2026"),
        google=gcp_kms.add("quality", "RSA_SIGN_RAW_PKCS1_3072"),
        pem=f"file:{pem_file}",
    )
    (tmp_path / "keystay.toml").write_text(text)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [require_program("keystay", "keystay"), *arguments]
    env = {n: v for n, v in os.environ.items() if not n.startswith("KEYSTAY_")}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    WATCH.check(done.stdout + done.stderr, "keystay report")
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("form", ["json", "html", "md"])
def test_three_clients(folder: Path, form: str) -> None:
    """Each format tells of every client, and a changed byte is found."""
    made = run(folder, "report", "--format", form, "--out", "report")
    path = folder / "report"
    text = path.read_text()
    digest = re.findall(r"SHA-256 ([0-9a-f]{64})", made.stderr)

    assert (0, "") == (made.returncode, made.stdout)
    assert "2 of 3 keys" in made.stderr
    for said in ("epic", "quality", "legacy", "p11", "nightly"):
        assert said in text
    checked = run(folder, "report", "--verify", "report", "--digest", digest[0])
    assert (0, digest) == (checked.returncode, checked.stdout.split())

    path.write_text(text.replace("nightly", "nightlx", 1))
    changed = run(folder, "report", "--verify", "report")
    assert (2, "") == (changed.returncode, changed.stdout)
    assert "report-changed" in changed.stderr


def test_what_it_says(folder: Path) -> None:
    """Places, evidence, ages and verdicts are those of the keys."""
    document = json.loads(run(folder, "report", "--format", "json").stdout)
    found = {client["name"]: client for client in document["clients"]}

    assert {
        "epic-prod": ("other-process", "reported", True),
        "quality-reporting": ("other-process", "asserted", True),
        "legacy": ("in-process", "reported", False),
    } == {
        name: (
            client["key"]["custody"]["location"],
            client["key"]["custody"]["evidence"],
            client["policy"]["satisfied"],
        )
        for name, client in found.items()
    }
    assert {"value": "2026-01-15", "evidence": "asserted"} == found["epic-prod"]["created"]
    assert "reported" == found["quality-reporting"]["created"]["evidence"]
    assert found["legacy"]["created"] is None
    assert {"custody", "algorithms", "min_rsa_bits", "min_ec_bits"} == {
        rule["rule"] for rule in found["legacy"]["policy"]["rules"]
    }


def test_policy_check(folder: Path) -> None:
    """0 for a key that is what is demanded, 3 with every rule for one that is not."""
    good, bad = (
        run(folder, "policy", "check", "epic-prod"),
        run(folder, "policy", "check", "legacy"),
    )

    assert (0, 3) == (good.returncode, bad.returncode)
    assert "VIOLATED" not in good.stdout
    assert 1 == bad.stdout.count("VIOLATED")
    assert "in-process" in bad.stdout
    document = json.loads(run(folder, "policy", "check", "legacy", "--json").stdout)
    assert ("legacy", False) == (document["client"], document["satisfied"])


def test_policy_check_and_the_client_agree(folder: Path) -> None:
    """What `policy check` refuses, a signer refuses, too."""
    config = keystay.load_config(folder / "keystay.toml", environ={})
    open_client_signer(config, "epic-prod").close()
    with pytest.raises(keystay.errors.PolicyError):
        open_client_signer(config, "legacy")


def test_require_published(folder: Path, pem_file: Path) -> None:
    """Where publication is required, not knowing is a violation, and said to be that."""
    (folder / "keystay.toml").write_text(
        f'[clients.a]\nfhir_base_url = "https://x.example/r4"\nclient_id = "a"\n'
        f'key = "file:{pem_file}"\n[policy]\nrequire_published = true\n'
    )
    done = run(folder, "policy", "check")

    assert 3 == done.returncode
    assert "no jwks_url" in done.stdout


def test_wrong_use(folder: Path) -> None:
    """Each slip has a message, and no report comes of it."""
    assert 2 == run(folder, "report", "nobody").returncode
    assert 2 == run(folder, "report", "--digest", "00").returncode
    assert "cannot be read" in run(folder, "report", "--verify", "nothing").stderr
    (folder / "other").write_text("text")
    assert "report-unsealed" in run(folder, "report", "--verify", "other").stderr
    assert "cannot be written" in run(folder, "report", "--out", "no/such/folder").stderr


def test_config_by_hand(pem_file: Path) -> None:
    """A Config made in Python is reported on as well."""
    client = ClientConfig(fhir_base_url="https://x.example", client_id="a", key=f"file:{pem_file}")
    from keystay.ops.report import build

    assert 1 == build(Config(environment_client=client)).satisfied


@pytest.mark.long
def test_in_a_browser(folder: Path, tmp_path: Path) -> None:
    """Headless Chromium lays it out and prints it; KEYSTAY_TEST_SCREENSHOT=1 keeps the picture."""
    run(folder, "report", "--format", "html", "--out", "report.html")
    verify((folder / "report.html").read_bytes())
    # In the picture, paths as they are in production.
    text = (folder / "report.html").read_text()
    (folder / "report.html").write_text(
        re.sub(r"/tmp/[^&<]*/(pin|client\.pem)", r"/run/secrets/\1", text)
    )
    chromium = [
        require_program("chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu",
        "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    page = f"file://{folder / 'report.html'}"

    def browse(*options: str) -> str:
        done = subprocess.run(
            [*chromium, *options, page], cwd=tmp_path, capture_output=True, text=True,
            timeout=100, check=True,
        )  # fmt: skip
        return done.stdout

    dom = browse("--dump-dom")
    browse("--window-size=1100,1400", f"--screenshot={tmp_path / 'report.png'}")
    browse("--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}")

    assert 'lang="en"' in dom
    assert 3 == dom.count("<article")
    png, pdf = (tmp_path / "report.png").read_bytes(), (tmp_path / "report.pdf").read_bytes()
    assert (1100, 1400) == struct.unpack(">II", png[16:24])
    assert len(png) > 50_000, "an empty page"
    # The overview, a page for each client, and the software.
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 10
    if os.environ.get("KEYSTAY_TEST_SCREENSHOT"):
        SCREENSHOT.parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "report.png", SCREENSHOT)


def test_rotation_and_publication(tmp_path: Path, pem_file: Path) -> None:
    """Where the keys are published, whether that matches, and where each is in its life."""
    shutil.copy(pem_file, tmp_path / "one.pem")
    (tmp_path / "keystay.toml").write_text(
        '[clients.a]\nfhir_base_url = "https://x.example/r4"\nclient_id = "a"\n'
        'key = "file:one.pem"\nallow_insecure_loopback = true\n'
        'jwks_url = "http://127.0.0.1:1/jwks"\n[policy]\nrequire_published = true\n'
    )
    config = keystay.load_config(tmp_path / "keystay.toml", environ={})
    answers = Answers(KeySource(config, ()), path="/jwks", max_age=60)
    with SetServer(answers, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = tmp_path / "keystay.toml"
        file.write_text(file.read_text().replace("http://127.0.0.1:1", server.origin))
        before = json.loads(run(tmp_path, "report", "--format", "json").stdout)["clients"][0]
        Rotation(keystay.load_config(file, environ={}), "a").start()
        after = json.loads(run(tmp_path, "report", "--format", "json").stdout)["clients"][0]
        offline = json.loads(run(tmp_path, "report", "--offline", "--format", "json").stdout)
        server.shutdown()

    assert (True, []) == (before["policy"]["satisfied"], before["rotation"])
    assert ["ok"] == [key["verdict"] for key in before["publication"]["keys"]]
    assert ["current", "next"] == [key["state"] for key in after["rotation"]]
    assert ["ok", "ok"] == [key["verdict"] for key in after["publication"]["keys"]]
    assert offline["clients"][0]["policy"]["satisfied"] is False
    assert "not asked" in str(offline["clients"][0]["policy"])
