"""``bert-jax tpu types``: the Cloud TPU slices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bert_jax.config.accelerators import Slice, find_slice, prices_as_of, slices
from pipelines.settings import command_parser, parse

_TITLES = ("type", "topology", "chips", "hosts", "devices", "GiB/device", "TFLOP/s", "USD/h spot")


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu types", "List Cloud TPU slices with chips, hosts, memory and prices."
    )
    parser.add_argument("name", nargs="?", default="", help="only this type, such as v5litepod-16")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, argv)
    listed = [find_slice(options.name)] if options.name else list(slices().values())
    if options.json:
        print(json.dumps([_row(slice_) for slice_ in listed]))  # noqa: T201
        return
    rows = [_TITLES, *(_cells(_row(slice_)) for slice_ in listed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))  # noqa: T201
    print(f"bfloat16 peak and price of the whole slice; prices: {prices_as_of()}")  # noqa: T201


def _row(slice_: Slice) -> dict[str, Any]:
    prices = slice_.generation.prices
    return {
        "type": slice_.name,
        "topology": slice_.topology,
        "chips": slice_.chips,
        "hosts": slice_.hosts,
        "devices": slice_.devices,
        "hbm_gib_per_device": slice_.hbm,
        "peak_flops": slice_.generation.peak * slice_.chips,
        "usd_per_hour_on_demand": prices and round(prices["on-demand"] * slice_.chips, 2),
        "usd_per_hour_spot": prices and round(prices["spot"] * slice_.chips, 2),
        "runtime": slice_.generation.runtime,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("type", "topology", "chips", "hosts", "devices", "hbm_gib_per_device")
    price = row["usd_per_hour_spot"]
    tail = (f"{row['peak_flops'] / 1e12:,.0f}", "-" if price is None else f"{price:,.2f}")
    return (*(str(row[name]) for name in names), *tail)
