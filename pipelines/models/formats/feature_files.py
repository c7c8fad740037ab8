"""Files of vectors, .npz and Arrow, written incrementally."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from bert_jax.runtime.errors import BadArgumentsError

OFFSETS = "offsets"


class Writer(Protocol):
    """Writes columns with a row per text, or with as many rows as their lengths add up to."""

    def append(self, columns: Mapping[str, np.ndarray], lengths: np.ndarray | None) -> None:
        """Add texts.

        Args:
            columns: Arrays [N, …], with the same names, dtypes and widths in every call.
            lengths: int64 [texts]: number of the N rows of each text; None = one.
        """

    def finish(self) -> Path:
        """Complete the file in the draft folder and return its path; `append` is over."""

    def close(self) -> None:
        """Close all files, after `finish` or instead of it."""


def writer(suffix: str, draft: Path) -> Writer:
    """Return the writer of files that end in `suffix`.

    Args:
        suffix: .npz or .arrow.
        draft: An empty folder for unfinished files.

    Raises:
        BadArgumentsError: The suffix is unknown.
    """
    if suffix == ".npz":
        return NpzWriter(draft)
    if suffix == ".arrow":
        return ArrowWriter(draft)
    raise BadArgumentsError(f"a file of vectors must end in .npz or .arrow, not {suffix!r}")


class NpzWriter(Writer):
    """An array [N, …] per column; with lengths also ``offsets``, int64 [texts + 1].

    A zip file is written sequentially, so each array grows in a file of its own. At the end they
    are copied into the zip file one by one: the disk needs room for all arrays and a second time
    for the largest.
    """

    def __init__(self, draft: Path) -> None:
        """Write in the folder `draft`."""
        self._draft = draft
        self._open = ExitStack()
        self._parts: dict[str, tuple[IO[bytes], np.ndarray]] = {}
        self._rows: dict[str, int] = {}
        self._end = 0

    def append(self, columns: Mapping[str, np.ndarray], lengths: np.ndarray | None) -> None:
        if lengths is not None:
            offsets = self._end + np.cumsum(lengths, dtype=np.int64)
            if OFFSETS not in self._parts:
                offsets = np.concatenate(([np.int64(0)], offsets))
            self._end = int(offsets[-1])
            columns = {**columns, OFFSETS: offsets}
        for name, array in columns.items():
            if name not in self._parts:
                part = self._open.enter_context((self._draft / name).open("wb"))
                self._parts[name] = part, array[:0]
                self._rows[name] = 0
            self._parts[name][0].write(np.ascontiguousarray(array).data)
            self._rows[name] += len(array)

    def close(self) -> None:
        self._open.close()

    def finish(self) -> Path:
        self.close()
        out = self._draft / "features.npz"
        with zipfile.ZipFile(out, "w") as archive:
            for name, (_, empty) in self._parts.items():
                self._add(archive, name, empty)
                (self._draft / name).unlink()
        return out

    def _add(self, archive: zipfile.ZipFile, name: str, empty: np.ndarray) -> None:
        # A ZipInfo has the constant date 1980, so equal vectors make equal files.
        entry = zipfile.ZipInfo(f"{name}.npy")
        shape = (self._rows[name], *empty.shape[1:])
        header = np.lib.format.header_data_from_array_1_0(empty) | {"shape": shape}
        with (
            (self._draft / name).open("rb") as part,
            archive.open(entry, "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            shutil.copyfileobj(part, file, 1 << 20)


class ArrowWriter(Writer):
    """A row per text in an Arrow IPC file; with lengths the cells are lists."""

    def __init__(self, draft: Path) -> None:
        """Write in the folder `draft`."""
        import pyarrow

        self._arrow = pyarrow
        self._path = draft / "features.arrow"
        self._file: Any = None

    def append(self, columns: Mapping[str, np.ndarray], lengths: np.ndarray | None) -> None:
        arrays = [self._array(array, lengths) for array in columns.values()]
        batch = self._arrow.RecordBatch.from_arrays(arrays, list(columns))
        if self._file is None:
            self._file = self._arrow.ipc.new_file(str(self._path), batch.schema)
        self._file.write_batch(batch)

    def finish(self) -> Path:
        self.close()
        return self._path

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _array(self, array: np.ndarray, lengths: np.ndarray | None) -> Any:
        values = self._arrow.array(array.reshape(-1))
        if array.ndim == 2:
            values = self._arrow.FixedSizeListArray.from_arrays(values, array.shape[1])
        if lengths is None:
            return values
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        return self._arrow.ListArray.from_arrays(offsets, values)
