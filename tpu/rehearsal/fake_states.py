"""State transitions of a queued resource.

They follow documents and reports of users, not Google's code. Every row has its source; rows
marked "assumed" have no source that states them.
"""

from __future__ import annotations

from dataclasses import dataclass

_PROTO = "google-cloud-tpu 1.28.0, cloud_tpu.proto: "
_PAGE = "docs.cloud.google.com/tpu/docs/queued-resources: "


@dataclass(frozen=True)
class Transition:
    """A transition.

    Attributes:
        state: State before; "" if there is no resource.
        event: Event that causes it.
        to: State after.
        source: Source of this row.
    """

    state: str
    event: str
    to: str
    source: str


TRANSITIONS = (
    Transition("", "create", "CREATING", _PROTO + "the request has been received"),
    Transition(
        "CREATING",
        "admit",
        "WAITING_FOR_RESOURCES",
        _PAGE + "passed initial validation and added to the queue; it was called ACCEPTED",
    ),
    Transition("CREATING", "fail", "FAILED", _PROTO + "a late-discovered problem"),
    Transition("WAITING_FOR_RESOURCES", "grant", "PROVISIONING", _PAGE + "selected from the queue"),
    Transition("WAITING_FOR_RESOURCES", "fail", "FAILED", _PAGE + "not available in the interval"),
    Transition("PROVISIONING", "provide", "ACTIVE", _PAGE + "the request has been allocated"),
    Transition("PROVISIONING", "fail", "FAILED", _PROTO + "unavailability of resources"),
    Transition("ACTIVE", "suspend", "SUSPENDING", _PROTO + "by the user or the service"),
    Transition("PROVISIONING", "suspend", "SUSPENDING", "assumed: github.com/skypilot-org/skypilot"
               " has seen a TPU that was PREEMPTED while it was made"),
    Transition("SUSPENDING", "suspended", "SUSPENDED", _PROTO + "the resources have been deleted"),
    Transition("CREATING", "delete", "DELETING", "assumed"),
    Transition("WAITING_FOR_RESOURCES", "delete", "DELETING", _PROTO + "deleted when ACCEPTED"),
    Transition("PROVISIONING", "delete", "DELETING", _PROTO + "with force, after its nodes"),
    Transition("ACTIVE", "delete", "DELETING", _PROTO + "with force, after its nodes"),
    Transition("SUSPENDING", "delete", "DELETING", _PROTO + "with force"),
    Transition("SUSPENDED", "delete", "DELETING", _PROTO + "deleted when SUSPENDED"),
    Transition("FAILED", "delete", "DELETING", _PROTO + "deleted when FAILED"),
    Transition("DELETING", "deleted", "", _PROTO + "is being deleted"),
)  # fmt: skip

# Events that follow by themselves after some time.
AUTOMATIC = {
    "CREATING": "admit",
    "WAITING_FOR_RESOURCES": "grant",
    "PROVISIONING": "provide",
    "SUSPENDING": "suspended",
    "DELETING": "deleted",
}

# States in which a resource is deleted without `force` (DeleteQueuedResourceRequest.force in the
# proto, where WAITING_FOR_RESOURCES has its old name ACCEPTED); also a resource without nodes.
DELETABLE = {"WAITING_FOR_RESOURCES", "FAILED", "SUSPENDED"}

_STEPS = {(row.state, row.event): row.to for row in TRANSITIONS}


def after(state: str, event: str) -> str | None:
    """Return the next state; None if the event cannot happen."""
    return _STEPS.get((state, event))
