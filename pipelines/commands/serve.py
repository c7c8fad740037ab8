"""``bert-jax serve``: try a model on a web page or with a JSON API."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.models.open import MODEL_HELP
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("serve", "Serve a web page and a JSON API for a model, until Ctrl-C.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free port")
    options = parse(parser, argv)
    if not 0 <= options.port <= 65535:
        raise BadArgumentsError(f"--port must be from 0 to 65535, not {options.port}")
    try:
        from pipelines.serving.serve import serve  # needs the extra
    except ModuleNotFoundError as error:
        raise BadArgumentsError(
            f"serve needs {error.name}; install it with: pip install 'bert-jax[serve]'"
        ) from None
    serve(options.model, options.host, options.port)
