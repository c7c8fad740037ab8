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
from pipelines.data.sources.locations import readable
from pipelines.data.sources.source import OnBadRow, stop_at

_PAGE = re.compile(rb"<page>.*?</page>", re.DOTALL)
_OPEN, _CLOSE = b"<page>", b"</page>"
# [[File:x.png|a picture]] and [[Category:x]] show no text; [[:File:x]] is a link. The dump gives
# their names in its language.
_NAMESPACE = re.compile(r'<namespace key="(?:-2|6|14)"[^>]*>([^<]+)</namespace>')
_HIDDEN = frozenset({"file", "image", "media", "category"})
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*$")
_SITE_INFO = 1 << 14  # bytes at the beginning of a dump
# Elements whose content is no prose.
_DROPPED = {"ref", "references", "table", "gallery", "math", "chem", "score", "timeline", "code",
            "syntaxhighlight", "source", "pre", "imagemap", "graph", "style", "hiero", "ul", "ol",
            "dl"}  # fmt: skip
_LIST_ITEM = "\0"
_MARKS = re.compile(r"'{2,}|__[A-Z]+__")
_EMPTY_BRACKETS = re.compile(r" ?\((\s|[,;:])*\)")
_SPACES = re.compile(r"[ \t\xa0]{2,}")


@dataclass(frozen=True)
class DumpPiece(SpanPiece):
    """Some pages of a dump; links into the namespaces `hidden` show no text."""

    hidden: frozenset[str]

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
            if document := paragraphs(prose(text, self.hidden)):
                yield document


def prose(text: str, hidden: frozenset[str] = _HIDDEN) -> str:
    """Return the text passages of an article in wiki markup; see `DumpPiece` for `hidden`."""
    import mwparserfromhell

    # Unclosed quotes of bold text would let the parser try every way to close them.
    nodes = mwparserfromhell.parse(text, skip_style_tags=True).nodes
    rendered = _MARKS.sub("", "".join(_rendered(nodes, hidden)))
    lines = (line for line in rendered.split("\n") if _LIST_ITEM not in line[:2])
    return _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", "\n".join(lines)))


def _rendered(nodes: Any, hidden: frozenset[str]) -> Iterator[str]:
    from mwparserfromhell import nodes as kinds

    for node in nodes:
        if isinstance(node, kinds.Text):
            yield node.value
        elif isinstance(node, kinds.Wikilink):
            namespace, colon, _ = str(node.title).partition(":")
            is_language = not node.text and _LANGUAGE.match(namespace)
            if not colon or not (namespace.strip().casefold() in hidden or is_language):
                yield from _rendered((node.text or node.title).nodes, hidden)
        elif isinstance(node, kinds.ExternalLink):
            yield from _rendered(node.title.nodes if node.title else (), hidden)
        elif isinstance(node, kinds.Tag):
            yield from _rendered_tag(node, hidden)
        elif isinstance(node, kinds.HTMLEntity):
            yield node.normalize()


def _rendered_tag(node: Any, hidden: frozenset[str]) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if node.wiki_markup in ("*", "#", ":", ";"):
        yield _LIST_ITEM
    elif name == "br":
        yield "\n"
    elif name not in _DROPPED and node.contents:
        yield from _rendered(node.contents.nodes, hidden)


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

    def __init__(self, spec: str) -> None:
        """Find the dumps, and the names of their namespaces; see `FileSource` for the errors."""
        super().__init__(spec)
        names: set[str] = set()
        for file in self.corpus_files:
            with readable(file), file.open_text() as text:
                head = text.read(_SITE_INFO).partition(_OPEN)[0].decode("utf-8", "replace")
            names.update(map(str.casefold, _NAMESPACE.findall(head)))
        self._hidden = _HIDDEN | names

    def is_boundary(self, line: bytes, following: bytes) -> bool:
        return line.rstrip().endswith(_CLOSE)

    def piece(self, span: Span) -> DumpPiece:
        return DumpPiece(span, self._hidden)
