"""``python -m tpu ssh RUN``: gcloud's ssh to one host of the slice.

For looking, and for short commands that may run twice: gcloud repeats a command whose connection
broke while the first copy still runs. Training never depends on ssh.
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
    """gcloud's command line."""
    line = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node]
    line += [f"--zone={zone}", f"--project={project}", f"--worker={worker}"]
    if internal_ip:
        line.append("--tunnel-through-iap")
    if command:
        line.append(f"--command={' '.join(command)}")
    return line


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    ours, command = _split(argv)
    parser = command_parser(
        "tpu ssh",
        "Opens a shell on a host of the slice with gcloud: ssh RUN. Or runs a command there, which"
        " may run twice, because gcloud repeats it when the connection breaks: ssh RUN -- uptime.",
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--worker", type=int, default=0, help="number of the host")
    options = parse(parser, ours)
    watcher = watcher_of(options.run)
    launch = watcher.launch
    found = slice_of(launch, watcher.provider)
    if found is None or not found.nodes:
        raise UserError(f"{launch.run} has no hosts now; python -m tpu status {launch.run} tells")
    hosts = [(node.name, index) for node in found.nodes for index in range(len(node.endpoints))]
    if not 0 <= options.worker < len(hosts):
        raise BadArgumentsError(f"--worker {options.worker}: there are 0 to {len(hosts) - 1}")
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise BadInputError("gcloud is not installed; see cloud.google.com/sdk/docs/install")
    node, worker = hosts[options.worker]
    line = arguments(node, found.zone, launch.project, worker, launch.tpu.internal_ip, command)
    os.execv(gcloud, line)  # noqa: S606


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for us, and the command after ``--``."""
    words = [*argv, "--"]
    cut = words.index("--")
    return words[:cut], words[cut + 1 : -1]
