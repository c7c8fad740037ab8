"""Sentences of a paragraph: sentencex, and corrections of its known errors.

The corrections: dotted names (``asyncio.Queue``), inch marks, initials and abbreviations that it
lacks, a lowercase letter or a bracketed note after the end. A quotation of several sentences stays
one sentence, as sentencex has it.

sentencex takes about a microsecond per sentence, so the corrections must not examine each sentence
in Python. Its pieces are joined with newlines, and one regular expression that begins with a
newline finds the ends that need a decision.
"""

# ruff: noqa: RUF001 (Cyrillic letters are meant)
from __future__ import annotations

import re
from functools import cache

from sentencex import segment

# Frequent first words of a sentence. They distinguish a missing space ("the coast.The") from a
# dotted name ("asyncio.Queue"), and the end of a sentence from an initial.
_FIRST_WORDS = {
    "en": """A After All Although An And Are As At Because Before Both But By During Each For From
        He Her Here His How However I If In Is It Its Many Most My No Not Of On One Or Our Other
        She Since So Some Such That The Their Then There These They This Those Through To Under
        Until Was We Were What When Where Which While Who Why With You Your""",
    "de": """Aber Alle Als Am An Auch Auf Aus Bei Bis Da Dabei Damit Danach Das Dem Den Der Des Die
        Dies Diese Dieser Dieses Doch Durch Ein Eine Einer Er Es Für Hier Ich Ihr Ihre Im In Ist
        Man Mit Nach Nur Ob Obwohl Ohne Sein Seine Seit Sie So Um Und Unter Viele Vom Von Vor Was
        Wegen Wenn Wie Wir Zu Zum Zur""",
    "es": """A Al Algunos Ante Antes Aunque Cada Como Con Cuando De Del Desde Después Durante El
        Ella Ellos En Entre Era Es Esta Este Esto Fue Ha Hasta La Las Le Lo Los Luego Muchos Más No
        Otra Otro Para Pero Por Que Se Según Si Sin Sobre Su Sus También Tras Un Una Y Ya""",
    "fr": """À Après Au Aussi Avant Avec Ce Ces Cet Cette Comme Dans De Depuis Des Dès Du Elle
        Elles En Et Il Ils Je La Le Les Leur Lors Mais Nous On Or Ou Par Pendant Plus Pour Puis
        Quand Sa Sans Selon Ses Si Son Sous Sur Toutefois Un Une Vers""",
    "ru": """А Без Более Большинство Был Была Были В Во Вот Все Всё Для До Его Ее Её Если Еще Ещё
        Же За Затем Здесь И Из Или Именно Их К Как Когда Кроме Мы На Не Но О Об Однако Он Она Они
        Оно От По Под Позже После При Про С Сам Среди Так Также Там То Тогда Только Ты У Хотя Через
        Что Чтобы Эта Эти Это Этот Я""",
}
# Abbreviations that sentencex lacks and that do not end a sentence.
_ABBREVIATIONS = {
    "de": "St Sta Rev",
    "es": "St Sta Ste Rev núm pág col",
    "ru": "Дж Ю Св св им ул рис соавт акад проф",
}
# German nouns that follow an ordinal number more often than they begin a sentence.
_AFTER_ORDINAL = {
    "de": "Auflage Geburtstag Jahrestag Jahrhundert Jahrtausend Kapitel Lebensjahr Platz Rang "
    "Schuljahr Tag Weltkrieg Januar Februar März April Mai Juni Juli August September Oktober "
    "November Dezember"
}

# Characters that do not begin a sentence, or not without a reason.
_NO_START = (
    "".join(chr(code) for code in range(ord("a"), 0x590) if chr(code).islower()) + ".,;:!?)…»”%°"
)
_INCHES = re.compile(r'"(?<=[0-9¼½¾⅛⅜⅝⅞]")')
_QUOTE = re.compile('"')
_PRIME = "″"  # stands for an inch mark while sentences are sought; also one character
_TOKEN = re.compile(r"[\w.]*\Z")
_WORD = re.compile(r"\w*")
_LIST_MARKER = re.compile(r"([^\W\d_]|[ivx]{2,4})[.)]")
_NOTE = re.compile(r"\[[^\]\n]*\]\s*(?:\n|\Z)")


def split_sentences(document: list[str], language: str) -> list[str]:
    """Split the lines of a document into sentences; `language` is an ISO 639 code."""
    pieces: list[str] = []
    inches = _INCHES.search("\n".join(document))
    for line in document:
        pieces += _around_inches(line, language) if inches else segment(language, line)
        pieces.append("")  # nothing is joined across lines
    joined, suspects = _suspect(language).subn(
        lambda match: _decide(match, language), "\n".join(pieces)
    )
    if suspects:
        pieces = joined.split("\n")
    return [stripped for piece in pieces if (stripped := piece.strip())]


@cache
def _suspect(language: str) -> re.Pattern[str]:
    """Compile the expression that matches ends of sentences that may be wrong."""
    patterns = [
        rf"(?=[{re.escape(_NO_START)}\[])",
        r"(?<=\.\n)(?=[A-Z])",  # no space: a dotted name?
    ]
    if language == "ru":
        patterns.append(r"(?<=[\s(«\"„.][А-ЯЁA-Z]\. \n)(?=[А-ЯЁ])")
    if nouns := _AFTER_ORDINAL.get(language):
        patterns.append(rf"(?<=\d\. \n)(?=(?:{'|'.join(nouns.split())}))")
    if words := _ABBREVIATIONS.get(language, "").split():
        last = "".join({word[-1] for word in words})
        by_length: dict[int, list[str]] = {}  # an alternative that looks behind has one length
        for word in words:
            by_length.setdefault(len(word), []).append(word)
        behind = [rf"(?<=\b(?:{'|'.join(group)})\. \n)" for group in by_length.values()]
        patterns.append(rf"(?<=[{last}]\. \n)(?:{'|'.join(behind)})")
    return re.compile(rf"\n(?:{'|'.join(patterns)})")


def _decide(match: re.Match[str], language: str) -> str:
    """Return a newline if a sentence ends at the match, and nothing if it continues."""
    text, start, end = match.string, match.start(), match.end()
    if start == 0 or text[start - 1] == "\n":  # the first sentence of a line
        return "\n"
    follows = text[end : end + 60]
    first = follows[:1]
    if not first.strip():  # the end of a line
        return "\n"
    if first == "[":
        return "" if _NOTE.match(text, end) else "\n"
    word = _word(follows)
    if first.islower():
        starts = _LIST_MARKER.match(follows) or (
            # English prose about programs begins sentences with names of variables.
            language == "en"
            and text[max(0, start - 4) : start].rstrip()[-1:] == "."
            and (len(word) == 1 or word.capitalize() not in _first_words(language))
        )
        return "\n" if starts else ""
    if first in _NO_START:
        return ""
    if text[start - 1] == "." and first.isascii():
        return "" if _is_name(text[max(0, start - 60) : start - 1], follows, language) else "\n"
    initial = len(word) == 1 and follows[1:2] == "."
    return "\n" if word in _first_words(language) and not initial else ""


def _is_name(before: str, after: str, language: str) -> bool:
    """Distinguish ``asyncio.Queue`` from a missing space, given the text around the dot."""
    left, right = _TOKEN.search(before)[0], _word(after)  # type: ignore[index]
    if not left:
        return not before or before[-1].isspace()  # .NET
    if len(right) == 1 and left[-2:-1] in ("", "."):
        return True  # U.S.
    if right in _first_words(language):
        return False
    if left.isupper() and len(right) <= 4:
        return True  # README.Md
    joins = after[len(right) : len(right) + 1] in ("(", "_")
    camel = not right[1:].islower() and len(right) > 1
    return left.isascii() and ("." in left or "_" in left or joins or camel or left.islower())


def _around_inches(line: str, language: str) -> list[str]:
    """Split a line in which quotation marks follow digits; those outside quotations are inches."""
    if not _INCHES.search(line):
        return list(segment(language, line))
    masked = line
    inside = False
    for match in _QUOTE.finditer(line):
        at = match.start()
        number = line[at - 1 : at].isnumeric() and not line[at + 1 : at + 2].isalnum()
        if number and (not inside or _closes(line, at + 1)):
            masked = masked[:at] + _PRIME + masked[at + 1 :]
        else:
            inside = not inside
    pieces, begin = [], 0
    for piece in segment(language, masked):
        pieces.append(line[begin : begin + len(piece)])
        begin += len(piece)
    return pieces


def _closes(line: str, begin: int) -> bool:
    """Return whether the next quotation mark of a line closes a quotation."""
    at = line.find('"', begin)
    return (
        at > 0
        and line[at - 1].isalpha() | (line[at - 1] in ".,;:!?)")
        and not line[at + 1 : at + 2].isalnum()
    )


def _word(text: str) -> str:
    return _WORD.match(text)[0]  # type: ignore[index]


@cache
def _first_words(language: str) -> frozenset[str]:
    return frozenset(_FIRST_WORDS.get(language, "").split())
