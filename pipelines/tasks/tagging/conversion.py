"""Convert the tags of a data set to BIO, and report it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tagging.bio_tags import OUTSIDE, type_of
from pipelines.tasks.tagging.schemes import Scheme, are_brackets, from_brackets, recognize
from pipelines.tasks.tagging.sentence import Sentence
from pipelines.tasks.tagging.tag_names import are_numbers


def in_bio(
    source: str, sentences: Sequence[Sentence], of_entities: bool | None
) -> tuple[list[Sentence], bool]:
    """Return sentences with their tags in BIO, and whether the tags mark entities.

    Other tags stay. Prints the scheme, and how many tags changed.

    Args:
        source: File or data set, for messages.
        sentences: With tags.
        of_entities: Whether tags mark entities; None = the tags decide.

    Raises:
        BadInputError: Some tags do not belong to the scheme of the others.
    """
    tags = {tag for sentence in sentences for tag in sentence.tags or ()}
    if of_entities is not False and (are_brackets(tags) or (of_entities and tags == {"*"})):
        say(f"{source}: tags are brackets around entities; they are written as BIO")
        return [replace(s, tags=from_brackets(s.tags or ())) for s in sentences], True
    scheme = None if of_entities is False else recognize(tags, certain=of_entities is True)
    if scheme is None:
        reason = "no tag marks entities, so scores are those of single words"
        if are_numbers(tags):
            reason = (
                "tags are numbers, so scores are those of single words and not of entities; set"
                " options.tag_names to a file with their names"
            )
        say(f"{source}: {reason}")
        return list(sentences), False
    if scheme.strays:
        raise BadInputError(_stray(sentences, scheme))
    bio = [replace(s, tags=scheme.to_bio(s.tags or ())) for s in sentences]
    _report(source, sentences, bio, scheme)
    return bio, True


def located_tags(sentences: Iterable[Sentence]) -> Iterator[tuple[str, str]]:
    """Yield location and tag of every word."""
    for sentence in sentences:
        for number, tag in enumerate(sentence.tags or ()):
            yield sentence.location(number), tag


def _stray(sentences: Sequence[Sentence], scheme: Scheme) -> str:
    """Return the message about the first tag that does not belong to its scheme."""
    location, tag = next(item for item in located_tags(sentences) if item[1] in scheme.strays)
    usual = next((tag for tag, bioes in scheme.as_bioes.items() if bioes != OUTSIDE), "")
    remedy = "correct it (words outside of entities have O)"
    if not usual:
        if are_numbers({tag}):
            remedy = "write names, or train with options.tag_names, a file of names"
        return f"{location} has the tag {tag!r}, but the model has entities; {remedy}"
    return (
        f"{location} has the tag {tag!r}, but others mark entities in {scheme.name}, such as"
        f" {usual!r}; {remedy}, or rename {usual!r} if all tags are classes of single words"
    )


def _report(
    source: str, sentences: Sequence[Sentence], bio: Sequence[Sentence], scheme: Scheme
) -> None:
    """Print the scheme and the tags that changed, if any."""
    changes: Counter[tuple[str, str]] = Counter()
    first = ""
    for (location, old), (_, new) in zip(located_tags(sentences), located_tags(bio), strict=True):
        if old != new:
            changes[scheme.marks[old], new[:2]] += 1
            first = first or location.removeprefix(f"{source}, ")
    if changes:
        pairs = changes.most_common()
        counts = _and([f"{count:,} {mark}" for (mark, _), count in pairs])
        marks = _and([mark for (_, mark), _ in pairs])
        name = "IOB1" if _is_iob1(sentences, scheme) else scheme.name
        say(f"{source}: tags are {name}; {counts} tags are written as {marks} (first: {first})")
    elif all(tag == OUTSIDE for tag in scheme.as_bioes.values()):
        say(f"{source}: no tag marks an entity, so precision and recall are 0")


def _is_iob1(sentences: Sequence[Sentence], scheme: Scheme) -> bool:
    """Return whether B- begins only those entities that follow another of the same type."""
    if scheme.name != "BIO":
        return False
    for sentence in sentences:
        tags = [OUTSIDE, *(scheme.as_bioes[tag] for tag in sentence.tags or ())]
        for previous, tag in pairwise(tags):
            if tag[0] == "B" and type_of(previous) != type_of(tag):
                return False
    return True


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
