"""``bert-jax tpu selftest``: test the real cloud with its smallest slice.

The states that the tests assume are in one table (`tpu.rehearsal.fake_states`). This command
requests a spot slice with one chip, prints its states, compares them and deletes the slice.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from google.cloud import tpu_v2

from bert_jax.config.accelerators import find_slice, prices_as_of
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import DeviceUnavailableError, UserError
from bert_jax.runtime.signals import raise_on_signals
from pipelines.settings import command_parser, parse
from tpu.config import resolve_project
from tpu.launch.provider import QueuedResources, connect
from tpu.launch.request import MANAGED_BY
from tpu.rehearsal.fake_states import TRANSITIONS

_ACCELERATOR = "v5litepod-1"
_PAUSE = 5.0  # seconds between checks
_DELETION_CHECKS = 120  # checks until a deleted slice must be gone


def selftest(
    provider: QueuedResources,
    project: str,
    zone: str,
    patience: float,
    pause: float = _PAUSE,
    sleep: Callable[[float], None] = time.sleep,
) -> list[tuple[str, float]]:
    """Create a slice, wait until its node is READY, and delete it.

    Returns:
        The observed states, each with the seconds since the request; "" at the end.

    Raises:
        DeviceUnavailableError: There was no capacity within `patience` seconds.
        UserError: The API refused a request, or the slice failed.
    """
    name = f"bert-selftest-{secrets.token_hex(3)}"
    observed: list[tuple[str, float]] = []
    start = time.monotonic()

    def check() -> str:
        resource = provider.describe(zone, name)
        state = resource.state if resource else ""
        if not observed or observed[-1][0] != state:
            observed.append((state, time.monotonic() - start))
            say(f"{observed[-1][1]:7.1f} s  {state or 'deleted'}")
        ready = resource is not None and resource.nodes and resource.nodes[0].state == "READY"
        return "READY" if state == "ACTIVE" and ready else state

    try:
        provider.create(zone, name, _resource(project, zone, name))
        while (state := check()) != "READY":
            if state in ("FAILED", "SUSPENDED"):
                raise UserError(f"{name} became {state} before it was ready; try again later")
            if time.monotonic() - start > patience:
                raise DeviceUnavailableError(
                    f"no capacity in {zone} within {patience:.0f} s; try another --zone"
                )
            sleep(pause)
    finally:
        _delete(provider, project, zone, name, lambda: not check(), lambda: sleep(pause))
    return observed


def _delete(
    provider: QueuedResources,
    project: str,
    zone: str,
    name: str,
    is_gone: Callable[[], bool],
    wait: Callable[[], None],
) -> None:
    """Delete the slice; print how to delete it by hand if that fails."""
    gone = False
    try:
        provider.delete(zone, name)
        for _ in range(_DELETION_CHECKS):
            if gone := is_gone():
                return
            wait()
        raise UserError(f"{name} still exists after a deletion request; use the command above")
    finally:
        if not gone:
            say(
                f"{name} may still exist and cost money; delete it with: gcloud compute tpus"
                f" queued-resources delete {name} --zone={zone} --project={project} --force"
            )


def unknown_transitions(observed: Sequence[tuple[str, float]]) -> list[str]:
    """Return the observed transitions that `TRANSITIONS` does not have."""
    transitions = {(row.state, row.to) for row in TRANSITIONS}
    pairs = pairwise(state for state, _ in observed)
    return [f"{a} -> {b or 'deleted'}" for a, b in pairs if not _leads(transitions, a, b)]


def _leads(transitions: set[tuple[str, str]], first: str, last: str) -> bool:
    """Return True if there is a path; states between two checks are not observed."""
    reached, before = {first}, set[str]()
    while reached != before:
        before = set(reached)
        reached |= {after for state, after in transitions if state and state in before}
    return last in reached - {first}


def _resource(project: str, zone: str, name: str) -> tpu_v2.QueuedResource:
    slice_ = find_slice(_ACCELERATOR)
    node = tpu_v2.Node(
        accelerator_type=slice_.name,
        runtime_version=slice_.generation.runtime,
        network_config=tpu_v2.NetworkConfig(enable_external_ips=True),
        labels=dict([MANAGED_BY]),
    )
    spec = tpu_v2.QueuedResource.Tpu.NodeSpec(
        parent=f"projects/{project}/locations/{zone}", node_id=name, node=node
    )
    return tpu_v2.QueuedResource(
        tpu=tpu_v2.QueuedResource.Tpu(node_spec=[spec]), spot=tpu_v2.QueuedResource.Spot()
    )


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu selftest",
        "Request a spot slice with one chip from the real cloud, print its states and delete it. It"
        " is billed by the second while it exists.",
    )
    parser.add_argument("--project", default="", help="default: GOOGLE_CLOUD_PROJECT")
    parser.add_argument("--zone", default="us-west4-a", help="zone with v5e chips")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds to wait for a chip")
    options = parse(parser, argv)
    project = resolve_project(options.project)
    prices = find_slice(_ACCELERATOR).generation.prices
    if prices is not None:
        say(f"{_ACCELERATOR} spot: about {prices['spot']:.2f} USD per hour ({prices_as_of()})")
    raise_on_signals("deleting the slice")
    observed = selftest(connect(project), project, options.zone, options.patience)
    if transitions := unknown_transitions(observed):
        raise UserError(f"unexpected transitions: {', '.join(transitions)}; please report them")
    say("all transitions are as expected; the slice is deleted")
