"""``python -m tpu submit CONFIG``: ask for a slice that trains."""

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
from tpu.launch.provider import Provider, Resource, connect
from tpu.launch.request import (
    FILE,
    SPEC,
    STARTUP,
    Launch,
    prepared,
    queued_resource,
    read_launch,
    redacted,
)
from tpu.launch.watch import Watcher, slice_of, watch

_PAUSE = 3.0  # seconds between looks


def submit(launch: Launch, files: dict[str, bytes], provider: Provider) -> Launch:
    """Writes the launch into the folder of the run and asks for the slice, once.

    Returns:
        The launch as it stands in the folder.

    Raises:
        BadInputError: A slice of this run is there, with other settings or code.
        UserError: The run folder cannot be written, or the request was refused.
    """
    run = at(launch.run)
    own(run, "run_dir", RUN_MARKS)
    before = _before(launch)
    known, _ = status_files.look(run)
    there = _there(launch, before, provider)
    if there is not None and there.state not in DEAD:
        if known.stop:
            raise BadInputError(f"{launch.run} is being stopped; submit when {there.name} is gone")
        launch = replace(launch, first=before.first if before else launch.first)
        _write(run, launch)
        say(f"{there.name} is in {there.zone} already ({there.state}); it is not asked for again")
        return launch
    done = known.endings.get("DONE")
    if done is not None and done.spec == launch.spec:
        say(f"{launch.run} is done, at step {done.step:,}; nothing was submitted")
        return launch
    first = max((attempt.number for attempt in known.attempts), default=0) + 1
    launch = replace(launch, first=first)
    upload(files, run)
    status_files.clear(run)
    _write(run, launch)
    if there is not None:
        say(f"{there.name} in {there.zone} is {there.state}; it is deleted first")
        provider.delete(there.zone, there.name)
    watcher = Watcher(launch, provider)
    while True:
        seen, decision = watcher.look()
        watcher.act(seen, decision)
        if decision.status != "LEAVING":
            return launch
        say(f"waiting for the slice before to go ({decision.why})")
        time.sleep(_PAUSE)


def _before(launch: Launch) -> Launch | None:
    """What was submitted to the same folder before, if it can be read."""
    run = at(launch.run)
    with failures_explained(str(run)):
        if not (run / RUN_LAUNCH / FILE).exists():
            return None
    before = read_launch(run)
    if before.project != launch.project:
        raise BadInputError(
            f"{launch.run} was submitted in the project {before.project}, this is {launch.project};"
            f" choose another run_dir, or remove {RUN_LAUNCH}/{FILE} there when its slice is gone"
        )
    return before


def _there(launch: Launch, before: Launch | None, provider: Provider) -> Resource | None:
    """The slice of this run, unless it is going away; in the zones of before as well.

    Raises:
        BadInputError: It runs something else, or where it is not looked for any more.
    """
    zones = dict.fromkeys((*launch.tpu.zones, *(before.tpu.zones if before else ())))
    everywhere = replace(launch, tpu=replace(launch.tpu, zones=tuple(zones)))
    found = slice_of(everywhere, provider)
    if found is None or found.state == "DELETING":
        return None
    if found.state in DEAD:
        return found
    if found.metadata.get(SPEC) != launch.spec:
        raise BadInputError(
            f"the slice {found.name} in {found.zone} runs {launch.run} with other settings or"
            f" code; first: python -m tpu stop {launch.run}"
        )
    if found.zone not in launch.tpu.zones:
        raise BadInputError(
            f"the slice {found.name} is in {found.zone}, which tpu.zones does not name any more;"
            f" name it, or first: python -m tpu stop {launch.run}"
        )
    return found


def _write(run: Path, launch: Launch) -> None:
    status_files.put(run / RUN_LAUNCH / FILE, launch.text().encode())


def rehearsal(launch: Launch, files: dict[str, bytes]) -> str:
    """What `submit` would do, for people: the request as it is sent, and the startup script."""
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
    """The body of the request, as JSON."""
    message = queued_resource(launch, zone, launch.first)
    text = tpu_v2.QueuedResource.to_json(message, always_print_fields_with_no_presence=False)
    return json.loads(text)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu submit",
        "Asks for a slice on which the run of a config is trained; the computer may then be"
        " switched off, but only a watcher asks again when the slice is preempted. The config may"
        " stand first: submit CONFIG.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the request and the script; ask nobody"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --dry-run: the body of the request alone"
    )
    parser.add_argument("--watch", action="store_true", help="and watch it to the end")
    config, options = read(parser, argv)
    if options["json"] and not options["dry_run"]:
        raise BadArgumentsError("--json needs --dry-run")
    if options["watch"] and options["dry_run"]:
        raise BadArgumentsError("--watch and --dry-run exclude each other")
    launch, files = prepared(config)
    if options["dry_run"] and options["json"]:
        request = request_json(launch, launch.tpu.zones[0])
        print(redacted(json.dumps(request, sort_keys=True)))  # noqa: T201
        return
    if options["dry_run"]:
        print(rehearsal(launch, files))  # noqa: T201
        return
    for name, path in (("run_dir", launch.run), ("data.store", config.data.store)):
        if not path.startswith("gs://"):
            say(f"{name} {path} is in no bucket: every TPU VM must reach it under the same path")
    provider = connect(launch.project)
    launch = submit(launch, files, provider)
    if options["watch"]:
        watch(Watcher(launch, provider))
    else:
        say(
            f"python -m tpu watch {launch.run} keeps a slice there; status, logs and stop also"
            " take the folder"
        )
