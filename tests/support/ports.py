"""Free ports; apart from `conftest`, because `gcs` also runs as a program, without pytest."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_address() -> str:
    """The same with the host, as JAX wants it."""
    return f"127.0.0.1:{free_port()}"
