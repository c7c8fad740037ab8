"""Errors of the Cloud TPU API as messages with a remedy; `error_catalog` has the messages."""

from __future__ import annotations

import re
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError, TransportError
from google.rpc.code_pb2 import Code

from bert_jax.runtime.errors import UserError
from tpu.launch.error_catalog import CATALOG, UNKNOWN, CatalogEntry

# Noise around a message: the request, which REST puts first, a generic sentence, and an event id.
_NOISE = re.compile(
    r"^(GET|POST|PATCH|DELETE) \S+: |Cloud TPU received a bad request\.| ?\[EID: \w+\]"
)
_TEMPORARY_KINDS = {"rate", "transient"}
_MESSAGE = 240  # characters

# HTTP code -> status, for answers of REST without a status in the body.
_HTTP_STATUSES = {
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
        entry: Entry of the catalog.
        kind: Kind of the entry.
        retry_elsewhere: True if another zone may accept the request.
        status: Name of the status, such as RESOURCE_EXHAUSTED.
        exit_code: Exit code of the process.
    """

    def __init__(self, text: str, entry: CatalogEntry, status: str) -> None:
        """Take kind and exit code from the entry."""
        super().__init__(text)
        self.entry = entry
        self.kind = entry.kind
        self.retry_elsewhere = entry.retry_elsewhere
        self.status = status
        self.exit_code = entry.exit_code

    @property
    def is_temporary(self) -> bool:
        """True if the same request may soon succeed."""
        return self.kind in _TEMPORARY_KINDS


def cloud_error(
    error: Exception | tuple[int | str, str],
    zone: str = "",
    accelerator: str = "",
    runtime: str = "",
    project: str = "",
) -> CloudError:
    """Look up a failure in the catalog.

    Args:
        error: Exception of the client library, of google-auth or of the network. Or the code (of
            gRPC, of HTTP, or its name) and the message of a FAILED resource or operation.
        zone: Zone of the request.
        accelerator: Requested accelerator type.
        runtime: Requested runtime version.
        project: Project of the request.
    """
    if isinstance(error, tuple):
        name, message = status_name(error[0]), error[1]
    else:
        name, message = _status_of(error), str(getattr(error, "message", error))
    # Before the lookup: the URL of the request could match a pattern.
    message = _without_noise(message)
    entry = next((entry for entry in CATALOG if _matches(entry, name, message)), UNKNOWN)
    text = entry.text.format(
        zone=zone or "this zone",
        accelerator=accelerator or "TPU",
        runtime=runtime or "of the request",
        project=project or "PROJECT",
        message=message if len(message) <= _MESSAGE else f"{message[: _MESSAGE - 1]}…",
        status=name,
    )
    return CloudError(text, entry, name)


def status_name(code: int | str) -> str:
    """Return the name of a status from its name or its number in gRPC or HTTP."""
    if isinstance(code, str):
        return code
    if code in _HTTP_STATUSES:
        return _HTTP_STATUSES[code]
    return Code.Name(code) if code in Code.values() else "UNKNOWN"


def _matches(entry: CatalogEntry, status: str, message: str) -> bool:
    if entry.statuses and status not in entry.statuses:
        return False
    return re.search(entry.pattern, message, re.IGNORECASE) is not None


def _without_noise(message: str) -> str:
    return _NOISE.sub("", " ".join(message.split())).strip(". ") or "no reason given"


def _status_of(error: Exception) -> str:
    if isinstance(error, GoogleAuthError):
        temporary = isinstance(error, TransportError) or error.retryable
        return "UNAVAILABLE" if temporary else "UNAUTHENTICATED"
    if isinstance(error, OSError):  # of the network; exceptions of `requests` are OSErrors too
        return "UNAVAILABLE"
    if not isinstance(error, GoogleAPICallError):
        return "UNKNOWN"
    # BadRequest of REST is INVALID_ARGUMENT or FAILED_PRECONDITION; only the body distinguishes.
    if status := _status_in_body(error.response):
        return status
    if error.grpc_status_code is not None:
        return error.grpc_status_code.name
    return status_name(int(error.code)) if error.code is not None else "UNKNOWN"


def _status_in_body(response: Any) -> str:
    try:
        return response.json()["error"]["status"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
