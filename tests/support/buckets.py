"""The bucket server of a test module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import gcs_emulator


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[str]:
    """Run a server whose address all processes find in their environment; return its URL."""
    with pytest.MonkeyPatch.context() as patch, gcs_emulator.emulator() as (url, variables):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield url
