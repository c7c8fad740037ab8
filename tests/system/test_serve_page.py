"""The page of `bert-jax serve` in a browser that nobody sees."""

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
    """A page; at its end nothing may have failed or been asked of another server."""
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


def ask(page: Page, name: str, **fields: str) -> Any:
    """Fills the form of an ability, sends it with the keyboard, and waits for the answer."""
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
        result = ask(page, "fill-mask", text=text, top_k="3")
        best = client.found("fill-mask", text=text, top_k=3)["masks"][0]
        assert result.locator(".name").all_inner_texts() == [one["token"] for one in best]
        assert result.locator(".more").all_inner_texts() == [one["text"] for one in best]
        widths = [one.bounding_box()["width"] for one in result.locator(".track span").all()]
        assert widths == sorted(widths, reverse=True)
        # What the server refuses is shown as text, and markup stays text.
        error = ask(page, "fill-mask", text=HOSTILE)
        assert error.get_by_role("alert").inner_text() == f"there is no [MASK] in {HOSTILE!r}"
        assert ask(page, "next-sentence", text="the man", pair="milk").locator("li").count() == 2
        cells = ask(page, "similarity", texts="the man\nmilk\n\nthe").locator("td[style]")
        assert cells.count() == 9
        shown = ask(page, "tokenize", text="the ☂").locator(".pieces b").all_inner_texts()
        assert shown == ["[CLS]", "the", "[UNK]", "[SEP]"]


def test_attention_is_looked_into_with_the_keyboard(page: Page) -> None:
    with served(GOLDEN) as client:
        page.goto(f"{client.url}#attention")
        found = client.found("attention", text="the man in", pair="milk", layer=2)
        page.select_option("#attention select", "2")
        result = ask(page, "attention", text="the man in", pair="milk")
        heads, tokens = result.locator(".heads button"), result.locator(".strip button")
        assert heads.count() == len(found["heads"])
        assert tokens.all_inner_texts() == [token["piece"] for token in found["tokens"]]
        heads.nth(2).press("Enter")
        tokens.nth(3).press("Space")
        assert result.locator("[aria-pressed=true]").all_inner_texts() == ["Head 3", "in"]
        most = max(found["heads"][2][3])
        assert result.locator(".bars .value").first.inner_text().startswith(f"{100 * most:.1f}")


def test_answers_are_marked_where_they_stand(page: Page) -> None:
    # Characters beyond the first 65,536 count as one to Python and as two to JavaScript.
    context = f"😀 {HOSTILE} in a store"
    with served(with_head("qa")) as client:
        page.goto(client.url)
        found = client.found("qa", question="who?", context=context)
        result = ask(page, "qa", question="who?", context=context)
        assert result.locator("mark").all_inner_texts() == [found["answer"]]
        assert result.locator(".passage").inner_text() == context
    with served(with_head("tagging")) as client:
        page.goto(client.url)
        found = client.found("tagging", text=context)["entities"]
        assert found
        marks = ask(page, "tagging", text=context).locator("mark")
        assert marks.all_inner_texts() == [one["text"] + one["label"] for one in found]
        assert page.locator("img").count() == 1, "markup of a text became markup of the page"


@pytest.mark.parametrize(
    ("task", "name", "fields"),
    [
        ("classification", "classification", {"text": HOSTILE, "pair": "the milk"}),
        ("classification", "ranking", {"query": "the man", "passages": f"in\n{HOSTILE}\na store"}),
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
        found = client.found(name, **request)
        result = ask(page, name, **fields)
        verdict = result.locator(".verdict")
        names, values = result.locator(".bars .name"), result.locator(".bars .value")
        if name == "summarization":
            sentences = [found["document"][number] for number in found["sentences"]]
            assert result.locator("mark").all_inner_texts() == sentences
            assert result.locator(".passage").inner_text().rstrip() == " ".join(found["document"])
            assert verdict.inner_text() == f"{len(sentences)} of {len(found['document'])} sentences"
        elif name == "regression":
            assert float(verdict.inner_text()) == pytest.approx(found["value"], rel=1e-5)
        else:
            bars = _bars_of(found, request)
            assert names.all_inner_texts() == [text for text, _ in bars]
            shares = [float(text.rstrip(" %")) / 100 for text in values.all_inner_texts()]
            assert shares == pytest.approx([share for _, share in bars], abs=1e-3)
            if name != "ranking":
                assert verdict.inner_text() == found.get("choice", found["label"])
        assert result.locator(".note").count() == found.get("truncated", False)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") == width


def _bars_of(found: Any, request: dict[str, Any]) -> list[tuple[str, float]]:
    """Names and shares of an answer."""
    if "ranking" in found:
        passages = request["passages"]
        return [
            (f"{one['rank']}. {passages[one['index']]}", one["score"]) for one in found["ranking"]
        ]
    if "choice" in found:
        return list(zip(request["choices"], found["probabilities"], strict=True))
    return sorted(found["probabilities"].items(), key=lambda pair: -pair[1])


def test_the_page_fits_a_phone_and_says_when_the_server_is_gone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    with served(GOLDEN) as client:
        page.goto(client.url)
        for name in ("fill-mask", "similarity", "attention", "tokenize", "api"):
            page.get_by_role("navigation").locator(f"a[href='#{name}']").click()
            if name != "api":
                field = "texts" if name == "similarity" else "text"
                ask(page, name, **{field: "the man [MASK]\nin a store"})
            assert page.evaluate("document.documentElement.scrollWidth") == 360, name
        # Every field has a name that is read out.
        for field in page.locator("textarea, input, select").all():
            assert field.evaluate("one => one.labels.length") == 1
    page.get_by_role("navigation").locator("a[href='#fill-mask']").click()
    gone = ask(page, "fill-mask", text="the [MASK]")
    expect(gone.get_by_role("alert")).to_contain_text("Is it still running?")
