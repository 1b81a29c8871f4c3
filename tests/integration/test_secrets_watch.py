"""The watch for secrets finds what it is there to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.secrets_watch import SecretsWatch

ROOT = Path(__file__).parents[2]
SECRET = "watched-for-value"

LEAKS = {
    "a log message": "logging.getLogger('httpx').debug('token=%s', SECRET)",
    "a logged traceback": (
        "try:\n        raise ValueError(SECRET)\n"
        "    except ValueError:\n        logging.getLogger('x').exception('failed')"
    ),
    "standard output": "print('token', SECRET)",
    "standard error": "print(SECRET, file=sys.stderr)",
    "a child's output": "subprocess.run([sys.executable, '-c', f'print({SECRET!r})'], check=True)",
}


def run_test(directory: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run one test with the watch in a pytest of its own."""
    test = directory / "test_it.py"
    test.write_text(
        "import logging, subprocess, sys\n"
        f"SECRET = {SECRET!r}\n"
        "def test_it(secrets_watch):\n"
        f"    {body}\n"
        "    secrets_watch.add('the PIN', SECRET)\n"
    )
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", directory,
            "-p", "tests.support.secrets_watch", "-p", "no:cacheprovider", test,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("body", LEAKS.values(), ids=LEAKS)
def test_fails_the_test(tmp_path: Path, body: str) -> None:
    """A test that shows a secret fails, though the secret became known only later."""
    done = run_test(tmp_path, body)

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "shows the PIN" in done.stdout


def test_lets_the_others_pass(tmp_path: Path) -> None:
    """A test that shows something else passes."""
    done = run_test(tmp_path, "logging.getLogger('httpx').debug('harmless'); print('harmless')")

    assert 0 == done.returncode, done.stdout + done.stderr


def test_check() -> None:
    """A text is checked for the secret as it is and percent-encoded, unless it belongs there."""
    watch = SecretsWatch()
    watch.add("the token", "token/with+signs")

    assert {"the token"} == watch.leaks("a token/with+signs here")
    assert {"the token, quoted"} == watch.leaks("a token%2Fwith%2Bsigns here")
    assert set() == watch.leaks("a token/with+signs here", allowed=["token/with+signs"])
    with pytest.raises(pytest.fail.Exception, match="the output shows the token"):
        watch.check("token/with+signs", "the output")
    with pytest.raises(ValueError, match="too short"):
        watch.add("the PIN", "1234")
    assert "token/with" not in repr(watch)
