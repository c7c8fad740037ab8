"""What the Cloud TPU API says, in plain words: what is wrong, and the next step."""

from __future__ import annotations

import re
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError, TransportError
from google.rpc.code_pb2 import Code

from bert_jax.runtime.errors import UserError
from tpu.launch.error_catalog import ROWS, UNKNOWN, Row

# Around a message: the request, which REST puts before it; the words of every refusal; an event id.
_NOISE = re.compile(
    r"^(GET|POST|PATCH|DELETE) \S+: |Cloud TPU received a bad request\.| ?\[EID: \w+\]"
)
_PASSING = {"rate", "transient"}

# REST tells the HTTP code, where gRPC tells the status; a body without a status leaves the code.
_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class CloudError(UserError):
    """A request to the cloud failed.

    Attributes:
        row: Of the table.
        kind: What is in the way, see `Row`.
        retry_elsewhere: Whether another zone may grant what this one refuses.
        status: Name of the status, such as RESOURCE_EXHAUSTED.
        exit_code: Of the process.
    """

    def __init__(self, text: str, row: Row, status: str) -> None:
        """One with the kind and the exit code of its row."""
        super().__init__(text)
        self.row = row
        self.kind = row.kind
        self.retry_elsewhere = row.retry_elsewhere
        self.status = status
        self.exit_code = row.exit_code

    @property
    def passing(self) -> bool:
        """Whether the same request may soon succeed without anybody doing anything."""
        return self.kind in _PASSING


def explain(
    error: Exception | tuple[int | str, str],
    zone: str = "",
    accelerator: str = "",
    runtime: str = "",
    project: str = "",
) -> CloudError:
    """What a failure means and what to do.

    Args:
        error: Of the client library, of google-auth or of the network; or the code (of gRPC, of
            HTTP, or its name) and the message that a FAILED resource or an operation carries.
        zone: Where the request went.
        accelerator: That was asked for.
        runtime: That was asked for.
        project: Whose request it was.
    """
    if isinstance(error, tuple):
        name, message = status(error[0]), error[1]
    else:
        name, message = _status_of(error), str(getattr(error, "message", error))
    # Only what was said: the URL of the request has words of its own.
    message = _said(message)
    row = next((row for row in ROWS if _fits(row, name, message)), UNKNOWN)
    text = row.text.format(
        zone=zone or "this zone",
        accelerator=accelerator or "TPU",
        runtime=runtime or "of the request",
        project=project or "PROJECT",
        said=message if len(message) <= 240 else f"{message[:239]}…",
        status=name,
    )
    return CloudError(text, row, name)


def status(code: int | str) -> str:
    """Name of a status, from its name, its number in gRPC or its number in HTTP."""
    if isinstance(code, str):
        return code
    if code in _OF_HTTP:
        return _OF_HTTP[code]
    return Code.Name(code) if code in Code.values() else "UNKNOWN"


def _fits(row: Row, name: str, message: str) -> bool:
    if row.statuses and name not in row.statuses:
        return False
    return re.search(row.pattern, message, re.IGNORECASE) is not None


def _said(message: str) -> str:
    """The message in one line, without what helps nobody: the URL that REST begins with, …."""
    return _NOISE.sub("", " ".join(message.split())).strip(". ") or "no reason given"


def _status_of(error: Exception) -> str:
    if isinstance(error, GoogleAuthError):
        passing = isinstance(error, TransportError) or error.retryable
        return "UNAVAILABLE" if passing else "UNAUTHENTICATED"
    if isinstance(error, OSError):  # of the network; what `requests` raises is one too
        return "UNAVAILABLE"
    if not isinstance(error, GoogleAPICallError):
        return "UNKNOWN"
    # REST: BadRequest stands for INVALID_ARGUMENT and for FAILED_PRECONDITION; the body tells.
    in_body = _status_in(error.response)
    if in_body:
        return in_body
    if error.grpc_status_code is not None:
        return error.grpc_status_code.name
    return status(int(error.code)) if error.code is not None else "UNKNOWN"


def _status_in(response: Any) -> str:
    try:
        return response.json()["error"]["status"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
