"""Servers of one folder for each protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support import gcs_emulator, s3_server
from support.file_server import file_server


@contextmanager
def data_servers(folder: Path) -> Iterator[dict[str, str]]:
    """Serve a folder called data by HTTP, and in s3://bucket/data and gs://bucket/data.

    Yields:
        The addresses of the servers: http, s3 and gs. HTTP serves the parent of the folder.
    """
    with ExitStack() as stack:
        http = stack.enter_context(file_server(folder.parent))
        s3 = stack.enter_context(s3_server.s3_server())
        gs, _ = stack.enter_context(gcs_emulator.emulator())
        s3_server.upload(s3, folder, "s3://bucket/data")
        gcs_emulator.make_bucket(gs, "bucket")
        gcs_emulator.upload(gs, folder, "gs://bucket/data")
        yield {"http": http, "s3": s3, "gs": gs}
