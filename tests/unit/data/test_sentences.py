# ruff: noqa: RUF001 (Cyrillic letters are meant)
"""Ends of sentences: accuracy on hand-checked text, and named cases."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from pipelines.data.sources.documents import split_sentences
from pipelines.data.sources.python_docs import prose

CHECKED = Path(__file__).parent / "sentences"
# F1 of the ends of sentences. sentencex alone: 0.860, 0.937, 0.945, 0.923.
FLOORS = {"en": 0.875, "de": 0.950, "es": 0.975, "ru": 0.965}


def checked(language: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the paragraphs of a file with their sentences."""
    for paragraph in (CHECKED / f"{language}.txt").read_text("utf-8").strip().split("\n\n"):
        lines = paragraph.split("\n")
        text = "".join(line[:-1] if line.endswith("|") else f"{line} " for line in lines)
        yield text.strip(), [line.removesuffix("|") for line in lines]


def ends(sentences: list[str]) -> set[int]:
    """Return the positions of all ends but the last, not counting spaces."""
    return set(accumulate(len("".join(sentence.split())) for sentence in sentences[:-1]))


@pytest.mark.parametrize("language", FLOORS)
def test_accuracy_on_hand_checked_sentences(language: str) -> None:
    correct = predicted = expected = count = 0
    for text, sentences in checked(language):
        split = split_sentences([text], language)
        assert "".join("".join(split).split()) == "".join(text.split())
        correct += len(ends(split) & ends(sentences))
        predicted += len(ends(split))
        expected += len(ends(sentences))
        count += len(sentences)
    assert count == 200
    assert 2 * correct / (predicted + expected) >= FLOORS[language]


CASES = [
    ("en", "The class asyncio.Queue is a queue.|Use it."),
    ("en", "Use collections.OrderedDict for that.|Read README.Md first.|Call os.path.Join(x) now."),
    ("en", "It needs the .NET Framework.|The U.S. Army has it.|She has a Ph.D. in it."),
    ("en", "It includes Rinse.FM, Sub.FM and Rood.FM.|It ended."),
    ("en", 'A 12" disc.|It was good.|A 7" disc.|It was bad.|It is 3½" high.|It ends.'),
    ("en", '"The 12" disc is here," he said.|He had "Rock Band 2".|It was good.'),
    ("en", 'The "16" was left.|A "2" is here.|So is 5" by 7" paper.|It ends.'),
    ("en", "It lies in the north.[1]|It is old.|Pi is 3.14 or so.|See Mr. J. R. Smith."),
    ("en", "Apply it.|metadata is a map of all.|w is the array of frequencies."),
    ("en", "Dig It Up! is a show.|It grew in the US. and elsewhere."),
    ("de", "Im 19. Jahrhundert, z. B. am 3. Mai, war es so.|St. Pauli blieb."),
    ("es", "Lo dicen Jones et al. han visto más.|El río St. Johns es la 12. ª parte."),
    ("ru", "Об этом писал Дж. А. Гобсон.|Э. И. Дюпон имел 162 млн. евро.|Он умер."),
]


@pytest.mark.parametrize(("language", "marked"), CASES)
def test_named_cases(language: str, marked: str) -> None:
    sentences = marked.split("|")
    assert split_sentences([" ".join(sentences)], language) == sentences


def test_a_missing_space_is_not_a_dotted_name() -> None:
    text = (
        "It is in England.The game is old. It shows stress.However it lives. Harding.Harding won."
    )
    assert split_sentences([text], "en") == [
        "It is in England.",
        "The game is old.",
        "It shows stress.",
        "However it lives.",
        "Harding.",
        "Harding won.",
    ]


def test_lines_are_split_separately() -> None:
    lines = ['He has a 5" nail in asyncio.', "Queue is a heading. and lower", "(and) more", ""]
    together = split_sentences(lines, "en")
    assert together == [each for line in lines for each in split_sentences([line], "en")]
    assert together[:2] == ['He has a 5" nail in asyncio.', "Queue is a heading. and lower"]
    assert split_sentences([], "en") == []
    assert split_sentences(["", " ", "Vive en St. ", " a"], "es") == ["Vive en St.", "a"]


def test_the_built_in_corpus_keeps_dotted_names() -> None:
    text = "An email.errors.HeaderParseError may be raised here. This asyncio.Queue is not safe."
    assert list(prose(text)) == [
        "An email.errors.HeaderParseError may be raised here.",
        "This asyncio.Queue is not safe.",
    ]
