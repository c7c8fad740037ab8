"""``python -m tpu selftest``: the real cloud, with its smallest slice.

What the tests believe of the cloud is in one table (`testing.states`); this asks for one spot slice
with a single chip, prints how its states follow each other, and deletes it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from google.cloud import tpu_v2

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import DeviceUnavailableError, UserError
from bert_jax.runtime.signals import raise_on_signals
from pipelines.settings import command_parser, parse
from tpu.config import project_of
from tpu.launch.provider import Provider, connect
from tpu.launch.request import MANAGED_BY
from tpu.rehearsal.fake_states import TRANSITIONS
from tpu.slices import PRICES_AS_OF, find

_ACCELERATOR = "v5litepod-1"
_PAUSE = 5.0
_GOING = 120  # looks until a deleted slice must be gone


def selftest(
    provider: Provider,
    project: str,
    zone: str,
    patience: float,
    pause: float = _PAUSE,
    sleep: Callable[[float], None] = time.sleep,
) -> list[tuple[str, float]]:
    """Creates a slice, waits until its node is READY, and deletes it.

    Returns:
        The states that were seen, each with the seconds after the request; "" at the end.

    Raises:
        DeviceUnavailableError: There was no capacity within `patience` seconds.
        UserError: The API refused something, or the slice failed.
    """
    name = f"bert-selftest-{secrets.token_hex(3)}"
    resource = _resource(project, zone, name)
    seen: list[tuple[str, float]] = []
    begun = time.monotonic()

    def look() -> str:
        found = provider.describe(zone, name)
        state = found.state if found else ""
        if not seen or seen[-1][0] != state:
            seen.append((state, time.monotonic() - begun))
            say(f"{seen[-1][1]:7.1f} s  {state or 'gone'}")
        ready = found is not None and found.nodes and found.nodes[0].state == "READY"
        return "READY" if state == "ACTIVE" and ready else state

    try:
        provider.create(zone, name, resource)
        while (state := look()) != "READY":
            if state in ("FAILED", "SUSPENDED"):
                raise UserError(f"{name} became {state} before it was there")
            if time.monotonic() - begun > patience:
                raise DeviceUnavailableError(
                    f"no capacity in {zone} within {patience:.0f} s; try another --zone"
                )
            sleep(pause)
    finally:
        _delete(provider, project, zone, name, lambda: not look(), lambda: sleep(pause))
    return seen


def _delete(
    provider: Provider,
    project: str,
    zone: str,
    name: str,
    is_gone: Callable[[], bool],
    rest: Callable[[], None],
) -> None:
    """Deletes the slice, or says what to do if it does not go."""
    gone = False
    try:
        provider.delete(zone, name)
        for _ in range(_GOING):
            if gone := is_gone():
                return
            rest()
        raise UserError(f"{name} was deleted and does not go")
    finally:
        if not gone:
            say(
                f"{name} may still be there and cost money: gcloud compute tpus queued-resources"
                f" delete {name} --zone={zone} --project={project} --force"
            )


def unknown(seen: Sequence[tuple[str, float]]) -> list[str]:
    """Transitions that the table of the tests does not have."""
    known = {(row.state, row.to) for row in TRANSITIONS}
    states = [state for state, _ in seen]
    pairs = pairwise(states)
    return [f"{a} -> {b or 'gone'}" for a, b in pairs if not _leads(known, a, b)]


def _leads(known: set[tuple[str, str]], a: str, b: str) -> bool:
    """Whether b follows a, by way of states that may have passed between two looks."""
    reached, before = {a}, set[str]()
    while reached != before:
        before = set(reached)
        reached |= {after for first, after in known if first and first in before}
    return b in reached - {a}


def _resource(project: str, zone: str, name: str) -> tpu_v2.QueuedResource:
    slice_ = find(_ACCELERATOR)
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
    """Runs the command."""
    parser = command_parser(
        "tpu selftest",
        "Asks the real cloud for one spot chip, prints how its states follow each other, and"
        " deletes it. Billed by the second while it is there.",
    )
    parser.add_argument("--project", default="", help="the environment's GOOGLE_CLOUD_PROJECT")
    parser.add_argument("--zone", default="us-west4-a", help="with v5e chips")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds to wait for a chip")
    options = parse(parser, argv)
    project = project_of(options.project)
    prices = find(_ACCELERATOR).generation.prices
    if prices is not None:
        say(f"one {_ACCELERATOR} spot chip: some {prices[1]:.2f} USD an hour ({PRICES_AS_OF})")
    raise_on_signals("the slice is being deleted")
    seen = selftest(connect(project), project, options.zone, options.patience)
    surprises = unknown(seen)
    if surprises:
        raise UserError(f"the tests do not know of {', '.join(surprises)}; please report it")
    say("as the tests believe it; the slice is gone")
