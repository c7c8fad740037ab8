"""``bert-jax serve``: a page and a JSON API on this computer, to try a model."""

from __future__ import annotations

import errno
import importlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from bert_jax.runtime import distributed
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, DeviceUnavailableError
from bert_jax.runtime.paths import at
from bert_jax.training.partitioner import Partitioner
from pipelines.models.open import MODEL_HELP, open_model
from pipelines.settings import command_parser, parse

_WAITING = 128  # connections that the system holds until they are taken


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("serve", "Offers a page and a JSON API to try a model, until Ctrl-C.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one")
    options = parse(parser, argv)
    if not 0 <= options.port <= 65535:
        raise BadArgumentsError(f"--port must be from 0 to 65535, not {options.port}")
    web, guards, server = (
        _of_the_extra(f"pipelines.serving.{name}") for name in ("app", "guards", "server")
    )
    answers_module = importlib.import_module("pipelines.serving.answers")
    with listening(options.host, options.port) as sock:
        distributed.enable_compilation_cache()
        distributed.devices()
        partitioner = Partitioner(jax.local_devices()[:1])
        model = open_model(at(options.model), partitioner)
        answers = answers_module.Answers(model, partitioner)
        app = web.create_app(answers, guards.Hosts(options.host))
        say(f"{model.described}: {', '.join(answers.abilities)}")
        if not guards.is_loopback(options.host):
            say(
                f"WARNING: --host {options.host} lets everybody who reaches this computer use the"
                " model, without a password or encryption; 127.0.0.1 is this computer only"
            )
        say(f"open {url(sock)}  (Ctrl-C ends it)")
        server.Server(server.config(app)).run(sockets=[sock])
    say("ended")


def _of_the_extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadArgumentsError(
            f"serve needs {error.name}; install it with: pip install 'bert-jax[serve]'"
        ) from None


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, so that nobody else takes the port while the model is loaded.

    Raises:
        BadArgumentsError: There is no such address on this computer.
        DeviceUnavailableError: Another process listens there, or the port needs rights.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise BadArgumentsError(f"--host {host}: there is no such address") from None
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(_WAITING)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                why = "in use" if error.errno == errno.EADDRINUSE else "not for this user"
                raise DeviceUnavailableError(
                    f"port {port} is {why}; choose another; --port 0 finds a free one"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise BadArgumentsError(
                    f"--host {host} is no address of this computer; 127.0.0.1 is for this computer"
                    " only, 0.0.0.0 for all its networks"
                ) from None
            raise
        yield sock


def url(sock: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
