"""Identity and settings of a host, from files that the startup script wrote at boot."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import at

STEP_FILE = "beat"  # the newest step, in the home folder of the host
CONFIG, SETTINGS = "config.yaml", "host.json"  # in RUN/launch


@dataclass(frozen=True)
class Settings:
    """Settings of all hosts; part of a launch.

    Attributes:
        devices: Number of JAX devices of all slices together.
        hang_timeout: train.hang_timeout of the run; 0 = never.
        silence: Seconds after which JAX treats a silent host as dead.
        report: Seconds between heartbeats.
    """

    devices: int
    hang_timeout: int
    silence: int = 300
    report: float = 15.0

    def text(self) -> str:
        """Return the content of host.json."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, launch: Path) -> Settings:
        """Read host.json from the launch folder of the host.

        Raises:
            BadInputError: The file is damaged or of another version.
        """
        path = launch / SETTINGS
        try:
            return status_files.from_json(cls, status_files.read_text(path))
        except ValueError as error:
            raise BadInputError(
                f"{path} is damaged or from another version of bert-jax ({error}); submit again"
            ) from None


@dataclass(frozen=True)
class HostInfo:
    """A host of one or several slices.

    Attributes:
        run: Folder of the run.
        spec: Digest of the launch.
        attempt: Number of the attempt.
        worker: Number of the host.
        hosts: Number of hosts.
    """

    run: Path
    spec: str
    attempt: int
    worker: int
    hosts: int

    @classmethod
    def read(cls, home: Path) -> HostInfo:
        """Read the metadata attributes that the startup script fetched at this boot.

        Raises:
            BadInputError: An attribute is damaged.
        """

        def attribute(name: str) -> str:
            return status_files.read_text(home / "attributes" / name).strip()

        def number(name: str) -> int:
            if not re.fullmatch(r"\d{1,9}", text := attribute(name), re.ASCII):
                raise BadInputError(
                    f"{home / 'attributes' / name} is {text!r:.40}, not a number; restart the"
                    " VM to fetch it again"
                )
            return int(text)

        hosts_per_slice = len(attribute("worker-network-endpoints").split(","))
        # Lines such as MEGASCALE_NUM_SLICES: '2'; a single slice has none.
        environment = attribute("tpu-env")
        slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
        slice_id = _number(environment, "MEGASCALE_SLICE_ID", 0)
        return cls(
            run=at(attribute("bert-jax-run")),
            spec=attribute("bert-jax-spec"),
            attempt=number("bert-jax-attempt"),
            worker=slice_id * hosts_per_slice + number("agent-worker-number"),
            hosts=hosts_per_slice * slices,
        )


def _number(environment: str, name: str, default: int) -> int:
    match = re.search(rf"^\s*{name}\s*:\s*'?(\d{{1,9}})'?", environment, re.MULTILINE)
    return int(match[1]) if match else default
