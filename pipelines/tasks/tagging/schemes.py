"""Recognize how tags mark entities.

    BIO      B- begins an entity, I- continues it. IOB1 begins with B- only after an entity of the
             same type, and IO has no B- at all.
    BIOES    E- ends an entity, S- is one of a single word. IOE has I- and E- alone.
    BILOU    the same with L- for E- and U- for S-, as in spaCy
    BMES     the same with M- for I-, common for Chinese
    BMEWO    the same with W- for S-
    (PER*    brackets of CoNLL-2005 and CoNLL-2012

The letter is before or after the type (B-PER, PER-B), separated by ``-``, ``_`` or ``:``, or alone
if there is one type (B). Lower case is accepted.

Classes of words, such as parts of speech, can look alike: S-PRO, or the single letters B, M and S.
So one decision is made for all tags of a data set, and the model's classes keep it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.tasks.tagging.bio_tags import OUTSIDE, UNTYPED, Tags, entities, tag_of, to_bio

_SCHEMES = {"BIO": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}
_AS_BIOES = dict(zip("BIESLUMW", "BIESESIS", strict=True))
_OUTSIDE = (OUTSIDE, OUTSIDE.lower())
_MARK = "(?P<mark>{}(?P<letter>[BIESLUMWbieslumw]){})"
_BARE = re.compile(_MARK.format("", "") + "(?P<type>)")
_TYPED = [
    re.compile(pattern, re.DOTALL)
    for separator in "-_:"
    for pattern in (
        _MARK.format("", separator) + "(?P<type>.+)",
        "(?P<type>.+)" + _MARK.format(separator, ""),
    )
]
_BRACKETS = re.compile(r"(?P<begin>\((?P<type>[^()*\s]+))?\*?(?P<end>\))?")


@dataclass(frozen=True)
class Scheme:
    """How tags mark entities.

    Attributes:
        name: Name of the scheme.
        as_bioes: Tag -> the same in BIOES; O for `strays`.
        marks: Tag -> its part without the type, such as ``U-``.
        strays: Tags that do not belong to the scheme.
    """

    name: str
    as_bioes: Mapping[str, str]
    marks: Mapping[str, str]
    strays: frozenset[str]

    def to_bio(self, tags: Sequence[str]) -> Tags:
        """Return the same entities in BIO."""
        return to_bio([self.as_bioes[tag] for tag in tags])

    @property
    def is_bio(self) -> bool:
        """All tags are written as in the BIO of this module: ``B-TYPE``, ``I-TYPE``, ``O``."""
        return self.name == "BIO" and all(tag == bio for tag, bio in self.as_bioes.items())

    def from_bio(self, bio: Sequence[str]) -> Tags:
        """Return tags of the scheme for BIO; empty where no tag has the type of the entity.

        A letter that does not occur is replaced: B- begins an entity without S-, for example.
        """
        written = {bioes: tag for tag, bioes in self.as_bioes.items()}
        outside = OUTSIDE if OUTSIDE in self.as_bioes else written.get(OUTSIDE, "")
        tags = [outside] * len(bio)
        for label, first, end in entities(bio):
            for word in range(first, end):
                letters = "IEBS"
                if word == first:
                    letters = "SBIE" if end == first + 1 else "BISE"
                elif word == end - 1:
                    letters = "EIBS"
                names = (written.get(tag_of(letter, label)) for letter in letters)
                tags[word] = next(filter(None, names), "")
        return tags


def recognize(tags: Iterable[str], certain: bool = False) -> Scheme | None:
    """Return the scheme of a set of tags; None if they are classes of single words.

    Args:
        tags: All tags of a data set, or all classes of a model.
        certain: They mark entities; only the scheme is unknown.
    """
    tags = sorted(set(tags))
    words = [tag for tag in tags if tag not in _OUTSIDE]
    typed = [_matches(notation, words) for notation in _TYPED]
    bare = _matches(_BARE, words)
    matches = max(typed, key=len) or bare  # of several with equal length, the first
    letters = [match["letter"].upper() for match in matches.values()]
    if not certain:
        similar = len(bare.keys() | {tag for each in typed for tag in each})
        if matches is bare:
            fits = len(bare) == len(words) and _mark_entities_alone(set(letters))
        elif len(matches) == len(words) < len(tags):
            fits = True
        else:  # some tags may be errors
            fits = not {"B", "I"}.isdisjoint(letters) and 2 * similar >= len(words)
        if not fits:
            return None
    name = max(_SCHEMES, key=lambda name: sum(letter in _SCHEMES[name] for letter in letters))
    as_bioes, marks = dict.fromkeys(tags, OUTSIDE), {tag: tag for tag in tags}
    for tag, match in matches.items():
        if (letter := match["letter"].upper()) in _SCHEMES[name]:
            as_bioes[tag] = tag_of(_AS_BIOES[letter], match["type"] or UNTYPED)
            marks[tag] = match["mark"]
    strays = frozenset(tag for tag in words if as_bioes[tag] == OUTSIDE)
    return Scheme("IO" if set(letters) == {"I"} else name, as_bioes, marks, strays)


def _mark_entities_alone(letters: set[str]) -> bool:
    """Return whether letters without a type mark entities: B and I, or a beginning and an end.

    Others, such as B, M and S, are parts of speech.
    """
    whole = any(letters <= set(scheme) for scheme in _SCHEMES.values())
    ends = "B" in letters and not letters.isdisjoint("EL")
    return bool(letters) and (letters <= {"B", "I"} or (whole and ends))


def _matches(notation: re.Pattern[str], tags: Iterable[str]) -> dict[str, re.Match[str]]:
    return {tag: match for tag in tags if (match := notation.fullmatch(tag))}


def are_brackets(tags: Iterable[str]) -> bool:
    """Return whether tags are brackets around entities, such as ``(PERSON*``, ``*`` and ``*)``."""
    tags = set(tags)
    return "*" in tags and all(map(_BRACKETS.fullmatch, tags)) and any("(" in tag for tag in tags)


def from_brackets(tags: Sequence[str]) -> Tags:
    """Return BIO tags of a sentence of `are_brackets`."""
    bio, label = [], ""
    for tag in tags:
        match = _BRACKETS.fullmatch(tag)
        label = (match and match["type"]) or label
        letter = "B" if match and match["begin"] else "I"
        bio.append(tag_of(letter, label) if label else OUTSIDE)
        if match and match["end"]:
            label = ""
    return bio
