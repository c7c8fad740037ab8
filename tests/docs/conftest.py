"""Fixtures of the tests of pages."""

from __future__ import annotations

from support.doc_commands import parse_only

__all__ = ["parse_only"]
