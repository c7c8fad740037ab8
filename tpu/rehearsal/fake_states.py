"""How a queued resource goes from state to state.

This is a reading of documents and of what people saw, not of Google's code: every row has its
source, and the rows marked "assumed" have none that says it outright.
"""

from __future__ import annotations

from dataclasses import dataclass

_PROTO = "google-cloud-tpu 1.28.0, cloud_tpu.proto: "
_PAGE = "docs.cloud.google.com/tpu/docs/queued-resources: "


@dataclass(frozen=True)
class Transition:
    """One step.

    Attributes:
        state: Before; "" where there is no resource.
        event: What happens.
        to: State after.
        source: Who says so.
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

# What happens in a state of itself, after some time.
AUTOMATIC = {
    "CREATING": "admit",
    "WAITING_FOR_RESOURCES": "grant",
    "PROVISIONING": "provide",
    "SUSPENDING": "suspended",
    "DELETING": "deleted",
}

# In which a resource is deleted without `force` (DeleteQueuedResourceRequest.force in the proto,
# which says ACCEPTED where the API now says WAITING_FOR_RESOURCES); also one without nodes.
DELETABLE = {"WAITING_FOR_RESOURCES", "FAILED", "SUSPENDED"}

_STEPS = {(row.state, row.event): row.to for row in TRANSITIONS}


def after(state: str, event: str) -> str | None:
    """The state that follows; None where the event cannot happen."""
    return _STEPS.get((state, event))
