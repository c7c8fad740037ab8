"""Serve a model on a port of this computer."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from bert_jax.runtime import distributed
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, DeviceUnavailableError
from pipelines.models.open import open_model
from pipelines.serving import server
from pipelines.serving.answers import Answers
from pipelines.serving.app import create_app
from pipelines.serving.guards import Hosts, is_loopback

_BACKLOG = 128  # connections that the system queues


def serve(model_path: str, host: str, port: int) -> None:
    """Serve the page and the JSON API of a model until a signal ends it.

    Args:
        model_path: The model.
        host: Address to listen on.
        port: 0 picks a free one.

    Raises:
        BadArgumentsError: The address is not one of this computer.
        BadInputError: The model cannot be opened.
        DeviceUnavailableError: The port is in use, or there is no device.
    """
    with listening(host, port) as sock:
        distributed.enable_compilation_cache()
        model = open_model(model_path)
        answers = Answers(model)
        app = create_app(answers, Hosts(host))
        say(f"{model.described}: {', '.join(answers.abilities)}")
        if not is_loopback(host):
            say(
                f"WARNING: --host {host} lets everybody who reaches this computer use the model,"
                " without a password or encryption; use 127.0.0.1 for this computer only"
            )
        say(f"open {url(sock)}  (stop with Ctrl-C)")
        server.Server(server.config(app)).run(sockets=[sock])
    say("server stopped")


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on a socket, so that no other process takes the port while the model is loaded.

    Raises:
        BadArgumentsError: The address is not one of this computer.
        DeviceUnavailableError: Another process listens on the port, or the port needs privileges.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise BadArgumentsError(
            f"--host {host} does not exist; use 127.0.0.1 for this computer only"
        ) from None
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                reason = "in use" if error.errno == errno.EADDRINUSE else "reserved for root"
                raise DeviceUnavailableError(
                    f"port {port} is {reason}; choose another, or --port 0 for a free one"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise BadArgumentsError(
                    f"--host {host} is not an address of this computer; use 127.0.0.1 for this"
                    " computer only, or 0.0.0.0 for all its networks"
                ) from None
            raise
        yield sock


def url(sock: socket.socket) -> str:
    """Return the address for a browser."""
    host, port = sock.getsockname()[:2]
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{local}]' if ':' in local else local}:{port}/"
