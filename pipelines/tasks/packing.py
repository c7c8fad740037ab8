"""Put several rows of a task into one row of the network; see `bert_jax.nn.packed_rows`.

Texts of fine-tuning are short and of different lengths: padded to the longest one, most of a batch
is padding. A packed batch has the same examples and the same loss in fewer rows; only question
answering, which scores padding as well, has none to score.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bert_jax.nn.packed_rows import LENGTHS, STARTS
from bert_jax.runtime.console import say
from bert_jax.training.batch import Shapes
from pipelines.tasks.task import Arrays

_INPUTS = ("token_ids", "token_type_ids", "segment_ids")
_WORTHWHILE = 0.9  # packing must need at most this part of the rows; otherwise it is not used
_LONG = 200  # a run of fewer steps does not pay for a second program
_SAVING = 0.05  # a second program must save at least this part of the rows
_WINDOW = 4096  # sequences that are sorted and packed together for predictions
MOST = 16  # sequences per row of a prediction: each row has slots for as many

Rows = list[list[int]]  # the sequences of each row


def best_fit(lengths: Sequence[int], room: int, most: int) -> Rows:
    """Assign sequences to rows: the longest first, to the fullest row with enough room.

    For a batch; `pipelines.data.batches.packing.pack` does the same for millions.

    Args:
        lengths: Each at most `room`; 0 is in no row.
        room: Tokens per row.
        most: Sequences per row.
    """
    rows: Rows = []
    free: list[tuple[int, int]] = []  # (room, row) of the rows that are not full, ascending
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if not length:
            break
        place = bisect_left(free, (length, 0))
        left, row = free.pop(place) if place < len(free) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        if left > length and len(rows[row]) < most:
            insort(free, (left - length, row))
    return rows


def slots_per_row(rows: Rows) -> int:
    """Return K for these rows: a power of two, so that other inputs need the same programs."""
    return 1 << (max(map(len, rows)) - 1).bit_length()


def row_lengths(arrays: Arrays) -> np.ndarray:
    """Return the tokens of each row of a task, int64 [R], or [R, C] of multiple choice."""
    return np.count_nonzero(arrays["segment_ids"], axis=-1)


def packed_inputs(arrays: Arrays, rows: Sequence[Sequence[int]]) -> Arrays:
    """Return the inputs of the network.

    Args:
        arrays: Of the task; rows and choices count as one dimension.
        rows: Which sequences are in each row; may be none.

    Returns:
        Four arrays, int32 [B, T], as in `bert_jax.nn.packed_rows`.
    """
    T = arrays["token_ids"].shape[-1]
    places = [(row, rank, n) for row, chosen in enumerate(rows) for rank, n in enumerate(chosen)]
    row, rank, sequence = np.array(places, np.int64).reshape(-1, 3).T  # [N]
    # Only the chosen rows are read: `arrays` may have all rows of a file.
    inside = arrays["segment_ids"].reshape(-1, T)[sequence] > 0  # [N, T]
    count = np.count_nonzero(inside, axis=1)
    position = _ranges(count)  # of every token in its sequence, [tokens]
    target = np.repeat(row * T + _offsets(row, count), count) + position
    values = {name: arrays[name].reshape(-1, T)[sequence][inside] for name in _INPUTS}
    values |= {"segment_ids": np.repeat(rank + 1, count), "position_ids": position}
    inputs = {name: np.zeros(len(rows) * T, np.int32) for name in values}
    for name, array in inputs.items():
        array[target] = values[name]
    return {name: array.reshape(-1, T) for name, array in inputs.items()}


def _ranges(counts: np.ndarray) -> np.ndarray:
    """Return 0 … n - 1 for each n of `counts`, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) - np.repeat(ends - counts, counts)


def _offsets(row: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return where each sequence begins in its row; `row` is ascending."""
    before = np.cumsum(count) - count
    return before - before[np.searchsorted(row, row)]


@dataclass(frozen=True)
class TrainingLayout:
    """The layout of training batches. Every device and part of a batch has rows of its own.

    Attributes:
        batch_size: Rows of the task per batch, over all devices.
        length: T.
        devices: Of all processes.
        parts: Of the rows of a device (train.accumulate); row r belongs to part r mod `parts`.
        sizes: Possible numbers of rows of each part, ascending. A batch has the smallest that is
            enough.
    """

    batch_size: int
    length: int
    devices: int
    parts: int
    sizes: Sequence[int]

    @property
    def totals(self) -> list[int]:
        """Possible numbers of rows of the network per batch, B."""
        return [rows * self.parts * self.devices for rows in self.sizes]

    def shapes(self, arrays: Arrays) -> list[Shapes]:
        """Return the shapes and dtypes that a batch can have."""
        return [self._shapes(arrays, total) for total in self.totals]

    def _shapes(self, arrays: Arrays, total: int) -> Shapes:
        inputs, places = (total, self.length), arrays["segment_ids"].shape[1:-1]
        named = dict.fromkeys((*_INPUTS, "position_ids"), inputs)
        named |= dict.fromkeys((STARTS, LENGTHS), (self.batch_size, *places))
        targets = {n: ((self.batch_size, *a.shape[1:]), a.dtype) for n, a in arrays.items()}
        return targets | {name: (shape, np.dtype(np.int32)) for name, shape in named.items()}

    def batch(self, arrays: Arrays, slots: slice) -> Arrays:
        """Pack a batch.

        Args:
            arrays: Of the task, all `batch_size` rows of it.
            slots: The rows of the task on this process.

        Returns:
            This process's part of the batch.
        """
        lengths = row_lengths(arrays)
        numbers = np.arange(lengths.size).reshape(lengths.shape)
        fits = packed_groups(lengths, self.length, self.devices, self.parts)
        of_device = self.parts * next(n for n in self.sizes if n >= max(map(len, fits.values())))
        rows: Rows = [[]] * (of_device * self.devices)
        starts = np.zeros(lengths.size, np.int32)
        for device, part, group in groups(self.batch_size, self.devices, self.parts):
            flat, chosen = lengths[group].reshape(-1), numbers[group].reshape(-1)
            for number, members in enumerate(fits[device, part]):
                row = number * self.parts + part  # of the device
                rows[device * of_device + row] = chosen[members].tolist()
                ends = np.cumsum(flat[members])
                starts[chosen[members]] = row * self.length + ends - flat[members]
        per_device = self.batch_size // self.devices
        first, last, _ = slots.indices(self.batch_size)
        mine = slice(first // per_device * of_device, last // per_device * of_device)
        own = {name: array[slots] for name, array in arrays.items() if name not in _INPUTS}
        own[STARTS] = starts.reshape(lengths.shape)[slots]
        own[LENGTHS] = lengths[slots].astype(np.int32)
        return own | packed_inputs(arrays, rows[mine])


def groups(rows: int, devices: int, parts: int) -> Iterator[tuple[int, int, slice]]:
    """Yield device, part and the rows of a batch that share rows of the network."""
    size = rows // devices
    for device in range(devices):
        for part in range(parts):
            yield device, part, slice(device * size + part, (device + 1) * size, parts)


def packed_groups(
    lengths: np.ndarray, room: int, devices: int, parts: int
) -> dict[tuple[int, int], Rows]:
    """Pack the rows of every device and part of a batch; see `best_fit`."""
    packed = {}
    for device, part, group in groups(len(lengths), devices, parts):
        flat = lengths[group].reshape(-1).tolist()
        packed[device, part] = best_fit(flat, room, len(flat))
    return packed


def training_layout(
    arrays: Arrays, batches: Iterable[np.ndarray], batch_size: int, devices: int, parts: int
) -> TrainingLayout | None:
    """Return a layout in which every batch of a run fits; None if packing does not pay.

    Args:
        arrays: Of the task.
        batches: Which rows are in each batch; at most `batch_size`.
        batch_size: Rows of the task per batch.
        devices: Of all processes.
        parts: Of the rows of a device.
    """
    lengths, T = row_lengths(arrays), arrays["token_ids"].shape[-1]
    tokens, needed = 0, Counter[int]()  # rows of each part -> batches
    for chosen in batches:
        batch = np.zeros((batch_size, *lengths.shape[1:]), np.int64)
        batch[: len(chosen)] = lengths[chosen]
        rows = max(1, *map(len, packed_groups(batch, T, devices, parts).values()))
        tokens, needed[rows] = tokens + int(batch.sum()), needed[rows] + 1
        if rows * devices * parts > _WORTHWHILE * batch_size * lengths[0].size:
            return None
    layout = TrainingLayout(batch_size, T, devices, parts, _sizes(needed))
    used = _rows(needed, layout.sizes) * devices * parts
    say(
        f"packing: {batch_size} rows of the task in {' or '.join(map(str, layout.totals))} rows of"
        f" {T} tokens, {tokens / max(1, used * T):.0%} full"
    )
    return layout


def _sizes(needed: Counter[int]) -> list[int]:
    """Return one or two sizes for batches that need so many rows."""
    most = max(needed, default=1)
    if needed.total() < _LONG:
        return [most]
    best = min(needed, key=lambda size: _rows(needed, (size, most)))
    saves = _rows(needed, (best, most)) <= (1 - _SAVING) * _rows(needed, (most,))
    return [best, most] if saves else [most]


def _rows(needed: Counter[int], sizes: Sequence[int]) -> int:
    """Return the rows of all batches, where each has the smallest of `sizes` that is enough."""
    return sum(
        count * next(size for size in sizes if size >= rows) for rows, count in needed.items()
    )


@dataclass(frozen=True)
class PredictionLayout:
    """The layout of rows that are predicted. Each row of the network has K slots.

    Attributes:
        arrays: Of the task.
        rows: The sequences of each row.
        size: B, rows per batch, over all devices.
        devices: Of all processes.
        most: K.
    """

    arrays: Arrays
    rows: Rows
    size: int
    devices: int
    most: int

    @classmethod
    def of(cls, arrays: Arrays, batch_size: int, devices: int) -> PredictionLayout | None:
        """Pack all rows; None if packing does not pay.

        Args:
            arrays: Of the task.
            batch_size: Most rows per batch, a multiple of `devices`.
            devices: Of all processes.
        """
        lengths, T = row_lengths(arrays).reshape(-1).tolist(), arrays["token_ids"].shape[-1]
        rows: Rows = []
        for first in range(0, len(lengths), _WINDOW):
            window = best_fit(lengths[first : first + _WINDOW], T, MOST)
            rows += [[first + index for index in members] for members in window]
        if not rows or len(rows) > _WORTHWHILE * len(lengths):
            return None
        size = min(batch_size, -(-len(rows) // devices) * devices)
        return cls(arrays, rows, size, devices, slots_per_row(rows))

    def batches(self, own: slice) -> Iterator[tuple[Arrays, np.ndarray]]:
        """Yield batches of the rows `own`, and the sequence in each slot, [B x K]; -1 is none."""
        arrays, K = self.arrays, self.most
        lengths, T = row_lengths(arrays).reshape(-1), arrays["token_ids"].shape[-1]
        first_of_row = np.arange(self.size) % (self.size // self.devices) * T  # on its device
        start, stop, _ = own.indices(self.size)
        for first in range(0, len(self.rows), self.size):
            rows = self.rows[first : first + self.size]
            rows += [[]] * (self.size - len(rows))
            slots = np.full((self.size, K), -1)
            for number, members in enumerate(rows):
                slots[number, : len(members)] = members
            counts = np.where(slots < 0, 0, lengths[slots])  # [B, K]
            starts = first_of_row[:, None] + np.cumsum(counts, axis=1) - counts
            places = {STARTS: np.where(slots < 0, 0, starts), LENGTHS: counts}
            if "cls_positions" in arrays:
                places["cls_positions"] = arrays["cls_positions"][slots]
            mine = {
                name: array[start:stop].reshape(-1, *array.shape[2:]).astype(np.int32)
                for name, array in places.items()
            }
            yield mine | packed_inputs(arrays, rows[start:stop]), slots.reshape(-1)
