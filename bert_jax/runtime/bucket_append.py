"""A file that grows, in a place that cannot append."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import UserError
from bert_jax.runtime.paths import failures_explained

PERIOD = 30.0  # seconds


class AppendedObject:
    """A file in a bucket: kept in memory, and written as a whole now and then by a thread.

    Attributes:
        name: Of the object.
    """

    def __init__(self, path: Path, begin: bytes = b"") -> None:
        """Begins to write `path`, which holds `begin` first of all."""
        self.name = str(path)
        self._path = path
        self._content = io.BytesIO()
        self._content.write(begin)
        self._written = -1  # bytes of it
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name=self.name, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Appends."""
        return self._content.write(data)

    def flush(self) -> None:
        """Returns when everything that was appended is in the bucket.

        Raises:
            UserError: It cannot be written.
        """
        with self._writing, failures_explained(self.name):
            content = self._content.getvalue()
            if len(content) != self._written:
                self._path.write_bytes(content)
                self._written = len(content)

    def close(self) -> None:
        """Writes what is left, and ends the thread; see `flush` for the errors."""
        self._closed.set()
        self._thread.join()
        self.flush()

    def _keep_writing(self) -> None:
        while not self._closed.wait(PERIOD):
            try:
                self.flush()
            except UserError as error:  # `flush` is called again before anything relies on it
                say(str(error))
