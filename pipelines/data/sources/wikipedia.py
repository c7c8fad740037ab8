"""Corpora of Wikipedia's dumps: the text passages of articles.

As in the BERT paper (section 3.1), lists, tables and headers are ignored. The title is no part of
the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.documents import Document, paragraphs
from pipelines.data.sources.files import Span, SpanPiece, SpanSource
from pipelines.data.sources.source import OnBadRow, stop_at

_PAGE = re.compile(rb"<page>.*?</page>", re.DOTALL)
_OPEN, _CLOSE = b"<page>", b"</page>"
# [[File:x.png|a picture]], [[Category:x]] and links to other languages; [[:File:x]] is a link.
_NAMESPACE = re.compile(r"[^\W\d_][\w-]*( \w+)?:\S")
# Elements whose content is no prose.
_DROPPED = {"ref", "references", "table", "gallery", "math", "chem", "score", "timeline", "code",
            "syntaxhighlight", "source", "pre", "imagemap", "graph", "style", "hiero", "ul", "ol",
            "dl"}  # fmt: skip
_LIST_ITEM = "\0"
_EMPTY_BRACKETS = re.compile(r" ?\((\s|[,;:])*\)")
_SPACES = re.compile(r"[ \t\xa0]{2,}")


@dataclass(frozen=True)
class DumpPiece(SpanPiece):
    """Some pages of a dump."""

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`; pages that are no articles, and redirects, are skipped.

        Raises:
            BadInputError: The file cannot be read, or ends within a page.
        """
        content = self.span.read()
        if content.rfind(_OPEN) > content.rfind(_CLOSE):
            raise BadInputError(f"{self.span.file} ends within a page; download it again")
        for match in _PAGE.finditer(content):
            try:
                # It begins with <page>, so there is no DTD and no entity that could expand.
                page = ElementTree.fromstring(match[0])  # noqa: S314
            except ElementTree.ParseError as error:
                on_bad_row(self.span.line(self.span.start + match.start()), f"not XML: {error}")
                continue
            text = page.findtext("revision/text")
            if page.findtext("ns") != "0" or page.find("redirect") is not None or not text:
                continue
            if page.findtext("revision/model", "wikitext") != "wikitext":
                continue
            if document := paragraphs(prose(text)):
                yield document


def prose(text: str) -> str:
    """Return the text passages of an article in wiki markup."""
    import mwparserfromhell

    # Unclosed quotes of bold text would let the parser try every way to close them.
    rendered = "".join(_rendered(mwparserfromhell.parse(text, skip_style_tags=True).nodes))
    rendered = re.sub(r"'{2,}", "", rendered)
    lines = (line for line in rendered.split("\n") if _LIST_ITEM not in line[:2])
    return _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", "\n".join(lines)))


def _rendered(nodes: Any) -> Iterator[str]:
    from mwparserfromhell import nodes as kinds

    for node in nodes:
        if isinstance(node, kinds.Text):
            yield node.value
        elif isinstance(node, kinds.Wikilink):
            title = str(node.title)
            if not _NAMESPACE.match(title):
                yield from _rendered(node.text.nodes if node.text else node.title.nodes)
        elif isinstance(node, kinds.ExternalLink):
            yield from _rendered(node.title.nodes if node.title else ())
        elif isinstance(node, kinds.Tag):
            yield from _rendered_tag(node)
        elif isinstance(node, kinds.HTMLEntity):
            yield node.normalize()


def _rendered_tag(node: Any) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if node.wiki_markup in ("*", "#", ":", ";"):
        yield _LIST_ITEM
    elif name == "br":
        yield "\n"
    elif name not in _DROPPED and node.contents:
        yield from _rendered(node.contents.nodes)


class Wikipedia(SpanSource):
    """Dumps of Wikipedia."""

    scheme = "wikipedia"
    form = "wikipedia:GLOB"
    summary = (
        "dumps of Wikipedia (pages-articles): the passages of articles, without titles, headings,"
        " lists, tables and markup"
    )
    example = "wikipedia:enwiki-*-pages-articles-multistream.xml.bz2"
    example_file = (
        "wiki.xml",
        "<mediawiki>\n<page>\n<title>A</title><ns>0</ns>\n<revision><text>A [[story|''story'']]\n"
        "of words.\n* An item</text></revision>\n</page>\n</mediawiki>\n",
    )
    license = "CC BY-SA 4.0 (Wikipedia)"
    # A dump may be cut between two articles, or between two streams.
    end = b"</mediawiki>"

    def is_boundary(self, line: bytes, following: bytes) -> bool:
        return line.rstrip().endswith(_CLOSE)

    def piece(self, span: Span) -> DumpPiece:
        return DumpPiece(span)
