"""A production process: a configured client asks for a token. Prints which rooms it has loaded.

python what_a_client_loads.py
"""

from __future__ import annotations

import sys

import keystay


def main() -> None:
    """Print the modules of ours that are not the runtime's."""
    with keystay.TokenClient.from_config() as client:
        assert not client.token().expired
    rooms = ("keystay.ops", "keystay.cli", "keystay.agent", "keystay.testing")
    print(sorted(name for name in sys.modules if name.startswith(rooms)))


if __name__ == "__main__":
    main()
