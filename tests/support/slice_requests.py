"""Requests for slices, sent to the fake cloud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import tpu_v2
from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport, TpuRestTransport

from support import fake_grpc
from support.scripted_cloud import ScriptedCloud
from tpu.launch import provider
from tpu.launch.provider import QueuedResources
from tpu.rehearsal import fake_rest

ZONE = "us-west4-a"
PLACE = f"projects/p/locations/{ZONE}"
NAME = f"{PLACE}/queuedResources/run"


def resource(slices: int = 1, **node: Any) -> tpu_v2.QueuedResource:
    """Return a request for slices of four workers each."""
    defaults = {
        "accelerator_type": "v5litepod-16",
        "runtime_version": "v2-alpha-tpuv5-lite",
        "labels": {"managed-by": "bert-jax"},
        "metadata": {"attempt": "1"},
    }
    names: dict[str, Any] = {"node_id": "run"}
    if slices > 1:
        names = {"multislice_params": {"node_count": slices}}
    spec = {"parent": PLACE, "node": defaults | node, **names}
    return tpu_v2.QueuedResource({"tpu": {"node_spec": [spec]}, "spot": {}})


@contextmanager
def reached(cloud: ScriptedCloud, protocol: str) -> Iterator[tpu_v2.TpuClient]:
    if protocol == "rest":
        with fake_rest.serve(cloud) as url:
            host = url.removeprefix("http://").rstrip("/")
            transport = TpuRestTransport(
                host=host, url_scheme="http", credentials=AnonymousCredentials()
            )
            with tpu_v2.TpuClient(transport=transport) as client:
                yield client
    else:
        with fake_grpc.serve(cloud) as address, grpc.insecure_channel(address) as channel:
            yield tpu_v2.TpuClient(transport=TpuGrpcTransport(channel=channel))


def active(cloud: ScriptedCloud, slices: QueuedResources, count: int = 1) -> None:
    assert slices.create(ZONE, "run", resource(count))
    for _ in range(3):
        cloud.advance("run")


def endpoints(slices: QueuedResources, name: str) -> tuple[str, ...]:
    """Return the addresses of all hosts, slice by slice."""
    described = slices.describe(ZONE, name)
    assert described
    return tuple(ip for node in described.nodes for ip in node.endpoints)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waiting times of the provider."""
    monkeypatch.setattr(provider, "_BACK_OFF", 0.01)
    monkeypatch.setattr(provider, "_ADMISSION", 0.05)
    monkeypatch.setattr(provider, "_POLL", 0.02)
