"""``bert-jax tpu submit CONFIG``: request a slice that trains."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.cloud import tpu_v2

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import at, failures_explained
from pipelines.folders import RUN_LAUNCH, RUN_MARKS, own
from pipelines.settings import command_parser
from tpu.config import read
from tpu.launch.bundle import upload
from tpu.launch.gc import DEAD
from tpu.launch.provider import QueuedResources, Resource, connect
from tpu.launch.request import (
    FILE,
    SPEC,
    STARTUP,
    Launch,
    prepare,
    queued_resource,
    read_launch,
    redacted,
)
from tpu.launch.watch import Watcher, slice_of, watch

_PAUSE = 3.0  # seconds between checks


def submit(launch: Launch, files: dict[str, bytes], provider: QueuedResources) -> Launch:
    """Write the launch to the run folder and request the slice once.

    Returns:
        The launch as written.

    Raises:
        BadInputError: The run has a slice with other settings or code.
        UserError: The run folder cannot be written, or the request was refused.
    """
    run = at(launch.run)
    own(run, "run_dir", RUN_MARKS)
    previous = _previous_launch(launch)
    status, _ = status_files.read_status(run)
    existing = _existing_slice(launch, previous, provider)
    if existing is not None and existing.state not in DEAD:
        if status.stop:
            raise BadInputError(
                f"{launch.run} is being stopped; submit again when {existing.name} is deleted"
            )
        launch = replace(launch, first=previous.first if previous else launch.first)
        _write(run, launch)
        say(f"{existing.name} already exists in {existing.zone} ({existing.state}); keeping it")
        return launch
    done = status.outcomes.get("DONE")
    if done is not None and done.spec == launch.spec:
        say(f"{launch.run} is complete at step {done.step:,}; nothing was submitted")
        return launch
    first = max((attempt.number for attempt in status.attempts), default=0) + 1
    launch = replace(launch, first=first)
    upload(files, run)
    status_files.clear(run)
    _write(run, launch)
    if existing is not None:
        say(f"{existing.name} in {existing.zone} is {existing.state}; deleting it first")
        provider.delete(existing.zone, existing.name)
    watcher = Watcher(launch, provider)
    while True:
        observation, decision = watcher.observe()
        watcher.act(observation, decision)
        if decision.status != "LEAVING":
            return launch
        say(f"waiting for the deletion of the previous slice ({decision.reason})")
        time.sleep(_PAUSE)


def _previous_launch(launch: Launch) -> Launch | None:
    run = at(launch.run)
    with failures_explained(str(run)):
        if not (run / RUN_LAUNCH / FILE).exists():
            return None
    previous = read_launch(run)
    if previous.project != launch.project:
        raise BadInputError(
            f"{launch.run} was submitted in project {previous.project}, not {launch.project};"
            f" choose another run_dir, or run bert-jax tpu delete {launch.run} and remove"
            f" {run / RUN_LAUNCH / FILE}"
        )
    return previous


def _existing_slice(
    launch: Launch, previous: Launch | None, provider: QueuedResources
) -> Resource | None:
    """Return the slice of this run, also in zones of the previous launch, unless DELETING.

    Raises:
        BadInputError: It runs another launch, or is in a zone that the config no longer has.
    """
    zones = dict.fromkeys((*launch.tpu.zones, *(previous.tpu.zones if previous else ())))
    in_all_zones = replace(launch, tpu=replace(launch.tpu, zones=tuple(zones)))
    existing = slice_of(in_all_zones, provider)
    if existing is None or existing.state == "DELETING":
        return None
    if existing.state in DEAD:
        return existing
    if existing.metadata.get(SPEC) != launch.spec:
        raise BadInputError(
            f"the slice {existing.name} in {existing.zone} runs {launch.run} with other settings"
            f" or code; first run: bert-jax tpu stop {launch.run}"
        )
    if existing.zone not in launch.tpu.zones:
        raise BadInputError(
            f"the slice {existing.name} is in {existing.zone}, which is not in tpu.zones; add the"
            f" zone, or first run: bert-jax tpu stop {launch.run}"
        )
    return existing


def _write(run: Path, launch: Launch) -> None:
    status_files.write_file(run / RUN_LAUNCH / FILE, launch.text().encode())


def describe_request(launch: Launch, files: dict[str, bytes]) -> str:
    """Return the request and the startup script as text."""
    zone = launch.tpu.zones[0]
    request = request_json(launch, zone)
    metadata = request["tpu"]["nodeSpec"][0]["node"]["metadata"]
    script, metadata[STARTUP] = metadata[STARTUP], "(the script below)"
    body = json.dumps(request, indent=1, sort_keys=True)
    sizes = "\n".join(f"  {name}  {len(content):,} bytes" for name, content in files.items())
    text = (
        f"to {launch.run}/{RUN_LAUNCH}/\n{sizes}\n\n"
        f"POST https://tpu.googleapis.com/v2/projects/{launch.project}/locations/{zone}"
        f"/queuedResources?queuedResourceId={launch.name}\n{body}\n\n"
        f"{STARTUP}, on every one of {launch.hosts} hosts at every boot:\n{script}"
    )
    return redacted(text)


def request_json(launch: Launch, zone: str) -> dict[str, Any]:
    """Return the body of the request as JSON."""
    message = queued_resource(launch, zone, launch.first)
    text = tpu_v2.QueuedResource.to_json(message, always_print_fields_with_no_presence=False)
    return json.loads(text)


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu submit",
        "Request a slice that trains the run of a config. This computer may then be switched off,"
        " but only a watcher requests a new slice after a preemption. The config may be the first"
        " argument: submit CONFIG.",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the request and the startup script, and send nothing",
    )
    parser.add_argument(
        "--json", action="store_true", help="with --dry-run: print only the body of the request"
    )
    parser.add_argument("--watch", action="store_true", help="watch the run to its end")
    config, options = read(parser, argv)
    if options["json"] and not options["dry_run"]:
        raise BadArgumentsError("--json needs --dry-run")
    if options["watch"] and options["dry_run"]:
        raise BadArgumentsError("--watch and --dry-run exclude each other")
    launch, files = prepare(config)
    if options["dry_run"] and options["json"]:
        request = request_json(launch, launch.tpu.zones[0])
        print(redacted(json.dumps(request, sort_keys=True)))  # noqa: T201
        return
    if options["dry_run"]:
        print(describe_request(launch, files))  # noqa: T201
        return
    for name, path in {"run_dir": launch.run, **config.data.paths}.items():
        if not path.startswith("gs://"):
            say(f"{name} {path} is not in a bucket: every TPU VM must have it under the same path")
    provider = connect(launch.project)
    launch = submit(launch, files, provider)
    if options["watch"]:
        watch(Watcher(launch, provider))
    else:
        say(f"to replace preempted slices, run: bert-jax tpu watch {launch.run}")
