"""What every test here may use, the plugins' tests included."""

pytest_plugins = [
    "tests.support.secrets_watch",
    "tests.support.fixtures",
    "tests.support.plugins",
    "tests.support.token_clients",
    "tests.support.aws_fixtures",
    "tests.support.gcp_fixtures",
]
