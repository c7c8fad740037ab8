"""The page of ``bert-jax serve`` in a headless browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from support import browsers
from support.model_server import GOLDEN, served, with_head

HOSTILE = "<img src=x onerror=alert(1)> <b>the</b> & milk"
LONG = "x" * 300

pytest_plugins = ["support.browsers"]
pytestmark = [pytest.mark.full, browsers.needed]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page; it must not fail or contact another server."""
    page = browser.new_page()
    page.set_default_timeout(30_000)
    failures: list[str] = []
    hosts: set[str] = set()
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda line: failures.append(line.text) if "Policy" in line.text else None)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    yield page
    page.close()
    assert not failures
    assert hosts == {"127.0.0.1"}


def submit(page: Page, name: str, **fields: str) -> Any:
    """Fill a form, submit it with the keyboard and wait for the answer."""
    if not page.locator(f"#{name}").is_visible():
        page.get_by_role("navigation").locator(f"a[href='#{name}']").click()
    for field, value in fields.items():
        page.fill(f"#{name} [name={field}]", value)
    page.locator(f"#{name} [name={next(iter(fields))}]").press("Control+Enter")
    result = page.locator(f"#{name} .result")
    page.locator(f"#{name} .result:not([aria-busy]) :is(.time, .error)").wait_for()
    return result


def test_a_pre_trained_model_is_tried(page: Page) -> None:
    with served(GOLDEN) as client:
        page.goto(client.url)
        expect(page).to_have_title("hugging_face: bert-jax serve")
        titles = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
        assert titles == [
            "Fill the mask",
            "Next sentence",
            "Similarity",
            "Attention",
            "Tokens",
            "API",
        ]
        assert page.get_by_role("heading", level=2).all_inner_texts() == ["Fill the mask"]
        text = "the man [MASK] milk."
        result = submit(page, "fill-mask", text=text, top_k="3")
        best = client.result("fill-mask", text=text, top_k=3)["masks"][0]
        assert result.locator(".name").all_inner_texts() == [
            candidate["token"] for candidate in best
        ]
        assert result.locator(".more").all_inner_texts() == [
            candidate["text"] for candidate in best
        ]
        widths = [bar.bounding_box()["width"] for bar in result.locator(".track span").all()]
        assert widths == sorted(widths, reverse=True)
        # Error messages of the server are text; markup in them has no effect.
        error = submit(page, "fill-mask", text=HOSTILE)
        assert f"{HOSTILE!r} contains no [MASK]" in error.get_by_role("alert").inner_text()
        assert submit(page, "next-sentence", text="the man", pair="milk").locator("li").count() == 2
        cells = submit(page, "similarity", texts="the man\nmilk\n\nthe").locator("td[style]")
        assert cells.count() == 9
        pieces = submit(page, "tokenize", text="the ☂").locator(".pieces b").all_inner_texts()
        assert pieces == ["[CLS]", "the", "[UNK]", "[SEP]"]


def test_attention_is_selected_with_the_keyboard(page: Page) -> None:
    with served(GOLDEN) as client:
        page.goto(f"{client.url}#attention")
        answer = client.result("attention", text="the man in", pair="milk", layer=2)
        page.select_option("#attention select", "2")
        result = submit(page, "attention", text="the man in", pair="milk")
        heads, tokens = result.locator(".heads button"), result.locator(".strip button")
        assert heads.count() == len(answer["heads"])
        assert tokens.all_inner_texts() == [token["piece"] for token in answer["tokens"]]
        heads.nth(2).press("Enter")
        tokens.nth(3).press("Space")
        assert result.locator("[aria-pressed=true]").all_inner_texts() == ["Head 3", "in"]
        highest = max(answer["heads"][2][3])
        assert result.locator(".bars .value").first.inner_text().startswith(f"{100 * highest:.1f}")


def test_answers_are_marked_in_their_text(page: Page) -> None:
    # Characters above U+FFFF have length one in Python and two in JavaScript.
    context = f"😀 {HOSTILE} in a store"
    with served(with_head("qa")) as client:
        page.goto(client.url)
        answer = client.result("qa", question="who?", context=context)
        result = submit(page, "qa", question="who?", context=context)
        assert result.locator("mark").all_inner_texts() == [answer["answer"]]
        assert result.locator(".passage").inner_text() == context
    with served(with_head("tagging")) as client:
        page.goto(client.url)
        entities = client.result("tagging", text=context)["entities"]
        assert entities
        marks = submit(page, "tagging", text=context).locator("mark")
        assert marks.all_inner_texts() == [entity["text"] + entity["label"] for entity in entities]
        assert page.locator("img").count() == 1, "markup of a text became markup of the page"


@pytest.mark.parametrize(
    ("task", "name", "fields"),
    [
        ("classification", "classification", {"text": HOSTILE, "pair": "the milk"}),
        ("classification", "ranking", {"query": "the man", "passages": f"in\n{HOSTILE}\na store"}),
        ("multi-label", "multi-label", {"text": HOSTILE, "pair": "the milk"}),
        ("regression", "regression", {"text": HOSTILE * 9}),
        ("multiple-choice", "multiple-choice", {"text": "the", "choices": f"{HOSTILE}\n{LONG}"}),
        ("summarization", "summarization", {"text": f"The man. {HOSTILE}. Milk.\n{LONG}"}),
    ],
)
def test_the_answer_of_a_task_is_shown(
    page: Page, task: str, name: str, fields: dict[str, str]
) -> None:
    lines = {"passages", "choices"}
    request = {key: text.split("\n") if key in lines else text for key, text in fields.items()}
    with served(with_head(task)) as client:
        page.goto(f"{client.url}#{name}")
        answer = client.result(name, **request)
        result = submit(page, name, **fields)
        verdict = result.locator(".verdict")
        names, values = result.locator(".bars .name"), result.locator(".bars .value")
        if name == "summarization":
            sentences = [answer["document"][number] for number in answer["sentences"]]
            assert result.locator("mark").all_inner_texts() == sentences
            assert result.locator(".passage").inner_text().rstrip() == " ".join(answer["document"])
            total = len(answer["document"])
            assert verdict.inner_text() == f"{len(sentences)} of {total} sentences"
        elif name == "regression":
            assert float(verdict.inner_text()) == pytest.approx(answer["value"], rel=1e-5)
        else:
            bars = _bars_of(answer, request)
            assert names.all_inner_texts() == [text for text, _ in bars]
            fractions = [float(text.rstrip(" %")) / 100 for text in values.all_inner_texts()]
            assert fractions == pytest.approx([fraction for _, fraction in bars], abs=1e-3)
            if name == "multi-label":
                assert verdict.inner_text() == (", ".join(answer["labels"]) or "No label")
                assert result.locator(".bars .more").count() == len(answer["labels"])
            elif name != "ranking":
                assert verdict.inner_text() == answer.get("choice", answer["label"])
        assert result.locator(".note").count() == answer.get("truncated", False)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") == width


def _bars_of(answer: Any, request: dict[str, Any]) -> list[tuple[str, float]]:
    """Return labels and fractions of an answer."""
    if "ranking" in answer:
        passages = request["passages"]
        return [
            (f"{item['rank']}. {passages[item['index']]}", item["score"])
            for item in answer["ranking"]
        ]
    if "choice" in answer:
        return list(zip(request["choices"], answer["probabilities"], strict=True))
    return sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])


def test_the_page_fits_a_phone_and_reports_a_stopped_server(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    with served(GOLDEN) as client:
        page.goto(client.url)
        for name in ("fill-mask", "similarity", "attention", "tokenize", "api"):
            page.get_by_role("navigation").locator(f"a[href='#{name}']").click()
            if name != "api":
                field = "texts" if name == "similarity" else "text"
                submit(page, name, **{field: "the man [MASK]\nin a store"})
            assert page.evaluate("document.documentElement.scrollWidth") == 360, name
        # Every field has a label for screen readers.
        for field in page.locator("textarea, input, select").all():
            assert field.evaluate("element => element.labels.length") == 1
    page.get_by_role("navigation").locator("a[href='#fill-mask']").click()
    result = submit(page, "fill-mask", text="the [MASK]")
    expect(result.get_by_role("alert")).to_contain_text("Check that bert-jax serve is running.")
