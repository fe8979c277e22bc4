"""The Review panel in a browser, without a kernel."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from snapkit.widgets import Review
from tests.widgets.conftest import Stage
from tests.widgets.scenes import HOSTILE, session, state

FORMS = [
    {"form": "qmp", "label": "QMP", "text": '{"execute": "transaction"}\n{"second": "line"}'},
    {"form": "qmp-shell", "label": "Shell", "text": "transaction("},
    {"form": "python", "label": "Python", "text": f"import snapkit\n# {HOSTILE[0]}"},
]


def test_the_forms_are_tabs_in_the_region_review(stage: Stage) -> None:
    shown = stage.show("review.js", state(Review(session())) | {"forms": FORMS, "status": "Sent"})

    expect(shown).to_match_aria_snapshot("""
        - region "Review":
          - heading "Review" [level=3]
          - status "Plan": Sent
          - tablist "What will be sent":
            - tab "QMP" [selected]
            - tab "Shell"
            - tab "Python"
          - status "Copied"
          - button "Copy"
          - tabpanel "QMP":
            - code: '{"execute": "transaction"} {"second": "line"}'
        """)


def test_the_text_is_exactly_the_preview(stage: Stage, page: Page) -> None:
    shown = stage.show("review.js", state(Review(session())) | {"forms": FORMS})

    for form in FORMS:
        shown.get_by_role("tab", name=form["label"]).click()
        assert shown.locator("code").text_content() == form["text"]
    assert page.evaluate("() => window.hacked") is None


def test_the_arrow_keys_go_from_tab_to_tab(stage: Stage, page: Page) -> None:
    shown = stage.show("review.js", state(Review(session())) | {"forms": FORMS})

    shown.get_by_role("tab", name="QMP").focus()
    page.keyboard.press("ArrowLeft")
    expect(shown.get_by_role("tab", name="Python")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(shown.get_by_role("tab", name="Shell", selected=True)).to_be_focused()


def test_a_new_plan_keeps_the_chosen_tab(stage: Stage) -> None:
    shown = stage.show("review.js", state(Review(session())) | {"forms": FORMS})
    shown.get_by_role("tab", name="Python").click()

    stage.update(forms=[{**form, "text": "new"} for form in FORMS])

    expect(shown.get_by_role("tab", name="Python", selected=True)).to_be_visible()
    expect(shown.locator("code")).to_have_text("new")


def test_copy_puts_the_text_on_the_clipboard(stage: Stage, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown = stage.show("review.js", state(Review(session())) | {"forms": FORMS})

    shown.get_by_role("button", name="Copy").click()

    expect(shown.get_by_role("status", name="Copied")).to_have_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == FORMS[0]["text"]


def test_without_a_clipboard_the_text_is_selected(stage: Stage, page: Page) -> None:
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(Error('no')); }")
    shown = stage.show("review.js", state(Review(session())) | {"forms": FORMS})

    shown.get_by_role("button", name="Copy").click()

    expect(shown.get_by_role("status", name="Copied")).to_have_text("Selected: press Ctrl+C")
    assert page.evaluate("() => String(getSelection())") == FORMS[0]["text"]


def test_problems_are_listed_and_nothing_is_shown_as_to_be_sent(stage: Stage) -> None:
    given = {"forms": [{**form, "text": ""} for form in FORMS], "problems": ["Problem: a <b>."]}
    shown = stage.show("review.js", state(Review(session())) | given)

    expect(shown.get_by_role("listitem")).to_have_text("Problem: a <b>.")
    expect(shown.get_by_role("tabpanel")).to_have_count(0)
    expect(shown.get_by_role("button", name="Copy")).to_have_count(0)
