"""``python -m tpu types``: the slices that there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipelines.settings import command_parser, parse
from tpu.slices import PRICES_AS_OF, Slice, find, slices


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("tpu types", "Lists Cloud TPU slices: chips, hosts, memory, prices.")
    parser.add_argument("name", nargs="?", default="", help="of one, such as v5litepod-16")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parse(parser, argv)
    found = [find(options.name)] if options.name else list(slices().values())
    if options.json:
        print(json.dumps([_row(one) for one in found]))  # noqa: T201
        return
    titles = (
        "type",
        "topology",
        "chips",
        "hosts",
        "devices",
        "GiB/device",
        "TFLOP/s",
        "USD/h spot",
    )
    rows = [titles, *(_shown(_row(one)) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))  # noqa: T201
    print(f"bfloat16 peak of the slice; prices of the slice: {PRICES_AS_OF}")  # noqa: T201


def _row(one: Slice) -> dict[str, Any]:
    prices = one.generation.prices
    return {
        "type": one.name,
        "topology": one.topology,
        "chips": one.chips,
        "hosts": one.hosts,
        "devices": one.devices,
        "hbm_gib_per_device": one.hbm,
        "peak_flops": one.generation.peak * one.chips,
        "usd_per_hour_on_demand": prices and round(prices[0] * one.chips, 2),
        "usd_per_hour_spot": prices and round(prices[1] * one.chips, 2),
        "runtime": one.generation.runtime,
    }


def _shown(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("type", "topology", "chips", "hosts", "devices", "hbm_gib_per_device")
    price = row["usd_per_hour_spot"]
    tail = (f"{row['peak_flops'] / 1e12:,.0f}", "-" if price is None else f"{price:,.2f}")
    return (*(str(row[name]) for name in names), *tail)
