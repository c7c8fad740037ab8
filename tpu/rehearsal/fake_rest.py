"""The fake cloud over HTTP, as tpu.googleapis.com answers.

The routes are those of Google's client library and bodies are read by its messages, so that a
field that does not exist is refused as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from google.cloud import tpu_v2
from google.cloud.tpu_v2.services.tpu.transports import rest_base
from google.longrunning import operations_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from tpu.rehearsal.fake_cloud import FakeCloud
from tpu.rehearsal.fake_validation import ApiError
from tpu.rehearsal.http_server import Quiet, serving

# HTTP codes, google/rpc/code.proto.
_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# docs.cloud.google.com/apis/docs/system-parameters
_SYSTEM = {"alt", "$alt", "prettyPrint", "key", "fields", "quotaUser", "$userProject"}


def _routes() -> list[tuple[str, re.Pattern[str], str, str]]:
    """HTTP method, path, RPC, and the field that is the body, of everything that v2 offers."""
    found = []
    for name, kind in vars(rest_base._BaseTpuRestTransport).items():
        if not name.startswith("_Base"):
            continue
        for option in kind._get_http_options():
            pattern = re.sub(
                r"\{([\w.]+)=([^}]+)\}",
                lambda found: f"(?P<{found[1].replace('.', '__')}>{found[2]})",
                option["uri"],
            )
            path = re.compile(pattern.replace("*", "[^/:]+"))
            rpc = name.removeprefix("_Base")
            found.append((option["method"].upper(), path, rpc, option.get("body", "")))
    return found


ROUTES = _routes()


@contextmanager
def serve(cloud: FakeCloud) -> Iterator[str]:
    """Answers on this machine while the context lasts; gives the URL, which ends with "/"."""
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    with serving(handler) as address:
        yield f"http://{address}/"


class _Handler(Quiet):  # requests are in `FakeCloud.calls`
    cloud: FakeCloud

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code = 200
        try:
            rpc, request = _request(self.command, url.path, query, body)
            answer = _as_dict(self.cloud.call(rpc, request), query)
        except ApiError as error:
            code = _CODES[error.status]
            answer = _error(code, error)
        self.answer(json.dumps(answer, indent=2).encode(), code)


def _request(method: str, path: str, query: dict[str, str], body: bytes) -> tuple[str, Any]:
    """The RPC and its message."""
    for verb, pattern, rpc, within in ROUTES:
        found = pattern.fullmatch(path) if verb == method else None
        if found is None:
            continue
        message = _message(rpc)
        given: dict[str, Any] = {}
        for name, value in [*found.groupdict().items(), *query.items()]:
            if name not in _SYSTEM:
                _put(given, message.DESCRIPTOR, name.replace("__", "."), value)
        try:
            sent = json.loads(body) if body else {}
            if within == "*":
                given |= sent
            elif within:
                given[within] = given.get(within, {}) | sent
            ParseDict(given, message)
        except (ParseError, ValueError) as error:
            raise ApiError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None
        return rpc, _plus(rpc, message)
    raise ApiError("NOT_FOUND", f"The requested URL {path} was not found on this server.")


def _put(given: dict[str, Any], descriptor: Any, name: str, value: str) -> None:
    """Puts the value of a path or of the query where the message has it."""
    first, _, rest = name.partition(".")
    known = descriptor.fields_by_camelcase_name.get(first) or descriptor.fields_by_name.get(first)
    if known is None:
        raise ApiError(
            "INVALID_ARGUMENT",
            f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.',
        )
    if rest:
        _put(given.setdefault(known.name, {}), known.message_type, rest, value)
    elif known.type == FieldDescriptor.TYPE_BOOL:
        given[known.name] = value.lower() in ("true", "1")
    else:
        given[known.name] = value


def _message(rpc: str) -> Any:
    kind = getattr(tpu_v2, f"{rpc}Request", None)
    if kind is not None:
        return kind.pb(kind())
    return getattr(operations_pb2, f"{rpc}Request")()


def _plus(rpc: str, message: Any) -> Any:
    kind = getattr(tpu_v2, f"{rpc}Request", None)
    return message if kind is None else kind.wrap(message)


def _as_dict(answer: Any, query: dict[str, str]) -> dict[str, Any]:
    message = answer if hasattr(answer, "DESCRIPTOR") else type(answer).pb(answer)
    numbers = "enum-encoding=int" in query.get("$alt", query.get("alt", ""))
    return MessageToDict(message, use_integers_for_enums=numbers)


def _error(code: int, error: ApiError) -> dict[str, Any]:
    """As in docs.cloud.google.com/apis/design/errors."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.status,
        "domain": "tpu.googleapis.com",
    }
    inner = {"code": code, "message": error.message, "status": error.status, "details": [info]}
    return {"error": inner}
