"""A file that grows in a bucket, where objects cannot be appended to.

gcsfs accepts the mode "ab", but warns and overwrites the object.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import UserError
from bert_jax.runtime.paths import failures_explained

PERIOD = 30.0  # seconds


class AppendedObject:
    """A file in a bucket: kept in memory, and written as a whole by a thread every 30 seconds.

    Attributes:
        name: Path of the object.
    """

    def __init__(self, path: Path, content: bytes = b"") -> None:
        """Start with `content`, which replaces that of an existing object."""
        self.name = str(path)
        self._path = path
        self._content = io.BytesIO()
        self._content.write(content)
        self._bytes_written = -1
        self._write_lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name=self.name, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Append to the content in memory."""
        return self._content.write(data)

    def flush(self) -> None:
        """Write everything to the bucket.

        Raises:
            UserError: It cannot be written.
        """
        with self._write_lock, failures_explained(self.name):
            content = self._content.getvalue()
            if len(content) != self._bytes_written:
                self._path.write_bytes(content)
                self._bytes_written = len(content)

    def close(self) -> None:
        """End the thread and write everything; raises as `flush` does."""
        self._closed.set()
        self._thread.join()
        self.flush()

    def _keep_writing(self) -> None:
        while not self._closed.wait(PERIOD):
            try:
                self.flush()
            except UserError as error:  # `flush` is called again before anything relies on it
                say(str(error))
