"""What a TPU VM knows of itself: the metadata of its slice, as the startup script wrote it down."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import at

BEAT = "beat"  # the newest step, in the folder of the host
CONFIG, SETTINGS = "config.yaml", "host.json"  # in RUN/launch


@dataclass(frozen=True)
class Settings:
    """How hosts behave; part of a launch.

    Attributes:
        devices: Of all slices together, as JAX counts.
        hang_timeout: Of the run's config; 0 = never.
        silence: Seconds after which JAX takes a host for dead.
        report: Seconds between heartbeats.
    """

    devices: int
    hang_timeout: int
    silence: int = 300
    report: float = 15.0

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, launch: Path) -> Settings:
        """From the folder that the startup script filled.

        Raises:
            BadInputError: They are damaged, or of another version.
        """
        path = launch / SETTINGS
        try:
            return status_files.typed(cls, status_files.text_of(path))
        except ValueError as error:
            raise BadInputError(f"{path} is not of this version ({error}); submit again") from None


@dataclass(frozen=True)
class HostInfo:
    """A host among those of a slice, or of several slices.

    Attributes:
        run: Folder of the run.
        spec: Of the launch.
        attempt: Number of the slice.
        worker: Number of the host.
        hosts: How many there are.
    """

    run: Path
    spec: str
    attempt: int
    worker: int
    hosts: int

    @classmethod
    def read(cls, home: Path) -> HostInfo:
        """From the attributes that the startup script fetched at this boot.

        Raises:
            BadInputError: One is not what it should be.
        """

        def attribute(name: str) -> str:
            return status_files.text_of(home / "attributes" / name).strip()

        def number(name: str) -> int:
            if not re.fullmatch(r"\d{1,9}", text := attribute(name), re.ASCII):
                raise BadInputError(
                    f"{home / 'attributes' / name} is {text!r:.40}, not a number; restart the"
                    " machine, which fetches it again"
                )
            return int(text)

        per_slice = len(attribute("worker-network-endpoints").split(","))
        # Lines such as MEGASCALE_NUM_SLICES: '2'; of a single slice there are none.
        environment = attribute("tpu-env")
        slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
        this = _number(environment, "MEGASCALE_SLICE_ID", 0)
        return cls(
            run=at(attribute("bert-jax-run")),
            spec=attribute("bert-jax-spec"),
            attempt=number("bert-jax-attempt"),
            worker=this * per_slice + number("agent-worker-number"),
            hosts=per_slice * slices,
        )


def _number(environment: str, name: str, default: int) -> int:
    found = re.search(rf"^\s*{name}\s*:\s*'?(\d{{1,9}})'?", environment, re.MULTILINE)
    return int(found[1]) if found else default
