"""``bert-jax tpu ssh RUN``: ssh to a host of the slice through gcloud.

For shells and for short commands that may run twice: when a connection breaks, gcloud repeats the
command while the first copy still runs. Training does not depend on ssh.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError
from pipelines.settings import command_parser, parse
from tpu.launch.watch import slice_of, watcher_of


def arguments(
    node: str, zone: str, project: str, worker: int, internal_ip: bool, command: Sequence[str]
) -> list[str]:
    """Return the command line of gcloud."""
    line = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node]
    line += [f"--zone={zone}", f"--project={project}", f"--worker={worker}"]
    if internal_ip:
        line.append("--tunnel-through-iap")
    if command:
        line.append(f"--command={' '.join(command)}")
    return line


def main(argv: Sequence[str]) -> None:
    own_arguments, command = _split(argv)
    parser = command_parser(
        "tpu ssh",
        "Open a shell on a host of the slice with gcloud (ssh RUN), or run a command (ssh RUN --"
        " uptime). The command may run twice: gcloud repeats it when the connection breaks.",
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--worker", type=int, default=0, help="number of the host")
    options = parse(parser, own_arguments)
    watcher = watcher_of(options.run)
    launch = watcher.launch
    resource = slice_of(launch, watcher.provider)
    if resource is None or not resource.nodes:
        raise UserError(
            f"{launch.run} has no hosts now; check its slice with: bert-jax tpu status {launch.run}"
        )
    hosts = [(node.name, index) for node in resource.nodes for index in range(len(node.endpoints))]
    if not 0 <= options.worker < len(hosts):
        raise BadArgumentsError(f"--worker {options.worker}: choose 0 to {len(hosts) - 1}")
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise BadInputError(
            "gcloud is not installed; install it from cloud.google.com/sdk/docs/install"
        )
    node, worker = hosts[options.worker]
    line = arguments(node, resource.zone, launch.project, worker, launch.tpu.internal_ip, command)
    os.execv(gcloud, line)  # noqa: S606


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split into our arguments and the command after ``--``."""
    words = [*argv, "--"]
    separator = words.index("--")
    return words[:separator], words[separator + 1 : -1]
