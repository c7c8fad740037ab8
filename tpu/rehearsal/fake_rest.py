"""The fake cloud over HTTP, with the routes of tpu.googleapis.com.

The routes come from Google's client library and its messages parse the bodies, so an unknown field
is refused as by the real API.
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
from tpu.rehearsal.http_server import QuietHandler, serving

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
    """Return HTTP method, path, RPC and body field of every method of the API."""
    routes = []
    for name, kind in vars(rest_base._BaseTpuRestTransport).items():
        if not name.startswith("_Base"):
            continue
        for option in kind._get_http_options():
            pattern = re.sub(
                r"\{([\w.]+)=([^}]+)\}",
                lambda match: f"(?P<{match[1].replace('.', '__')}>{match[2]})",
                option["uri"],
            )
            path = re.compile(pattern.replace("*", "[^/:]+"))
            rpc = name.removeprefix("_Base")
            routes.append((option["method"].upper(), path, rpc, option.get("body", "")))
    return routes


ROUTES = _routes()


@contextmanager
def serve(cloud: FakeCloud) -> Iterator[str]:
    """Serve on this machine within the context; yield the URL, which ends with "/"."""
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    with serving(handler) as address:
        yield f"http://{address}/"


class _Handler(QuietHandler):  # requests are in `FakeCloud.calls`
    cloud: FakeCloud

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

    do_GET = do_POST = do_DELETE = do_PATCH = _answer


def _request(method: str, path: str, query: dict[str, str], body: bytes) -> tuple[str, Any]:
    """Return the RPC and its message."""
    for verb, pattern, rpc, body_field in ROUTES:
        match = pattern.fullmatch(path) if verb == method else None
        if match is None:
            continue
        kind = getattr(tpu_v2, f"{rpc}Request", None)
        message = getattr(operations_pb2, f"{rpc}Request")() if kind is None else kind.pb(kind())
        values: dict[str, Any] = {}
        for name, value in [*match.groupdict().items(), *query.items()]:
            if name not in _SYSTEM:
                _put(values, message.DESCRIPTOR, name.replace("__", "."), value)
        try:
            content = json.loads(body) if body else {}
            if body_field == "*":
                values |= content
            elif body_field:
                values[body_field] = values.get(body_field, {}) | content
            ParseDict(values, message)
        except (ParseError, ValueError) as error:
            raise ApiError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None
        return rpc, message if kind is None else kind.wrap(message)
    raise ApiError("NOT_FOUND", f"The requested URL {path} was not found on this server.")


def _put(values: dict[str, Any], descriptor: Any, name: str, value: str) -> None:
    """Set a value from the path or the query in the field of its name."""
    first, _, rest = name.partition(".")
    field = descriptor.fields_by_camelcase_name.get(first) or descriptor.fields_by_name.get(first)
    if field is None:
        raise ApiError(
            "INVALID_ARGUMENT",
            f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.',
        )
    if rest:
        _put(values.setdefault(field.name, {}), field.message_type, rest, value)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        values[field.name] = value.lower() in ("true", "1")
    else:
        values[field.name] = value


def _as_dict(answer: Any, query: dict[str, str]) -> dict[str, Any]:
    message = answer if hasattr(answer, "DESCRIPTOR") else type(answer).pb(answer)
    numbers = "enum-encoding=int" in query.get("$alt", query.get("alt", ""))
    return MessageToDict(message, use_integers_for_enums=numbers)


def _error(code: int, error: ApiError) -> dict[str, Any]:
    """Return an error as in docs.cloud.google.com/apis/design/errors."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.status,
        "domain": "tpu.googleapis.com",
    }
    inner = {"code": code, "message": error.message, "status": error.status, "details": [info]}
    return {"error": inner}
