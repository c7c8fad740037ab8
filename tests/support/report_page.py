"""Parses the page of ``bert-jax report`` as a browser does."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import numpy as np

from bert_jax.config.run import RunConfig
from pipelines.settings import to_yaml

EVIL = "<script>alert('x')</script>\"&"
LOADING = {"src", "srcset", "data", "action", "poster", "background", "formaction"}


def read(page: Path | str) -> Element:
    """Parse a page, which must be valid HTML that loads and runs nothing."""
    text = page.read_text("utf-8") if isinstance(page, Path) else page
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    root = parser.parse(text)
    for element in root.iter():
        name = str(element.tag).rpartition("}")[2]
        assert name not in {"script", "iframe", "object", "embed", "link", "img", "form", "base"}
        for key, value in element.attrib.items():
            key = key.rpartition("}")[2]
            assert not key.startswith("on")
            assert key not in LOADING
            if key == "href":
                assert value.startswith("#") or value.endswith("/profile/"), value
            assert "url(" not in value.replace("url(#", "")
        if name == "style":
            assert "url(" not in (element.text or "").replace("url(#", "")
            assert "@import" not in (element.text or "")
    _accessible(root)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    (policy,) = [m for m in root.iter("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy.get("content", "")
    return root


def _accessible(root: Element) -> None:
    """Assert what a keyboard and a screen reader need."""
    for area in (div for div in root.iter("div") if div.get("class") == "scroll"):
        assert (area.get("tabindex"), area.get("role")) == ("0", "region")
        assert area.get("aria-label")
    assert all(text_of(cell) for cell in root.iter("th"))
    (nav,) = root.iter("nav")
    assert nav.get("aria-label")
    targets = {element.get("id") for element in root.iter()}
    assert all(link.get("href", "")[1:] in targets for link in nav.iter("a")), "a link to nothing"
    levels = [int(str(e.tag)[1]) for e in root.iter() if re.fullmatch("h[1-6]", str(e.tag))]
    assert levels[0] == 1
    assert all(following <= level + 1 for level, following in pairwise(levels)), (
        "a level is left out"
    )
    for drawing in root.iter("svg"):
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label")


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def facts(root: Element) -> dict[str, str]:
    tiles = [div for dl in root.iter("dl") for div in dl]
    return {text_of(tile[0]): text_of(tile[1]) for tile in tiles}


def tables(root: Element) -> list[list[list[str]]]:
    """Return the cells of all tables, including headings."""
    return [
        [[text_of(cell) for cell in row] for row in table.iter("tr")]
        for table in root.iter("table")
    ]


def table(root: Element, first: str) -> list[list[str]]:
    """Return the table with this first cell."""
    return next(rows for rows in tables(root) if rows[0][0] == first)


def figure(root: Element, title: str) -> Element:
    figures = [f for f in root.iter("figure") if text_of(f[0]).startswith(title)]
    assert len(figures) == 1, title
    return figures[0]


def curve(root: Element, title: str, name: str) -> np.ndarray:
    """Return the corners of a curve on the page, [N, 2]."""
    groups = [g for g in figure(root, title).iter() if g.get("id", "").endswith(f"-curve-{name}")]
    path = next(p for p in groups[0].iter() if p.get("d"))
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")), np.float64)


def assert_curve(corners: np.ndarray, steps: list[float], values: list[float]) -> None:
    """Assert that the corners are these values, on linear axes to the right and up."""
    assert len(corners) == len(steps)
    for drawn, expected, direction in ((corners[:, 0], steps, 1), (corners[:, 1], values, -1)):
        slope, offset = np.polyfit(expected, drawn, 1)
        assert slope * direction > 0
        np.testing.assert_allclose(slope * np.array(expected) + offset, drawn, atol=1e-3)


def write_bare_run(folder: Path, config: RunConfig, lines: str = "") -> Path:
    """Write a run folder with only a config and a log."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(replace(config, run_dir=str(folder))), "utf-8")
    (folder / "metrics.jsonl").write_text(lines, "utf-8")
    return folder
