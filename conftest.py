"""What every test here may use, the plugins' tests included."""

import signal

# A job that a shell starts in the background ignores Ctrl-C, and so would every program that a test
# starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.support.secrets_watch",
    "tests.support.fixtures",
    "tests.support.plugins",
    "tests.support.token_clients",
    "tests.support.aws_fixtures",
    "tests.support.gcp_fixtures",
]
