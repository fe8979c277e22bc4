"""The Run panel in a browser, without a kernel."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from snapkit.widgets import Run
from tests.widgets.conftest import Stage
from tests.widgets.scenes import HOSTILE, session, state

READY: dict[str, Any] = {"label": "Snapshot 2 disks", "reason": "", "revision": 7}
RUNNING: dict[str, Any] = {
    "running": True,
    "reason": "A run is in progress.",
    "cancellable": True,
    "phase": "Creating and opening the overlays …",
    "step": 3,
}
ROW = {
    "device": "drive0",
    "label": "drive0",
    "file_before": "/imgs/a.img",
    "file_after": "/imgs/a.snap",
    "depth_before": "0",
    "depth_after": "1",
    "result": "ok",
}


def run_state(**changes: Any) -> dict[str, Any]:
    return state(Run(session())) | READY | changes


def test_the_button_names_its_effect_and_sends_the_plan_that_was_seen(stage: Stage) -> None:
    shown = stage.show("run.js", run_state())

    shown.get_by_role("button", name="Snapshot 2 disks").click()

    assert stage.sent == [{"do": "press", "revision": 7}]


def test_a_disabled_button_says_why_and_does_nothing(stage: Stage, page: Page) -> None:
    shown = stage.show("run.js", run_state(reason="The connection is read-only."))
    button = shown.get_by_role("button", name="Snapshot 2 disks")

    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description("The connection is read-only.")
    button.click(force=True)
    button.focus()
    page.keyboard.press("Enter")
    assert stage.sent == []


def test_what_is_typed_elsewhere_disarms_the_button_at_once(stage: Stage, page: Page) -> None:
    given = run_state()
    shown = stage.show("run.js", given)
    button = shown.get_by_role("button", name="Snapshot 2 disks")

    stage.editing(group=given["group"], view="targets", open=True)
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description("The plan is being checked.")

    stage.editing(group=given["group"], view="targets", open=False)
    expect(button).to_be_enabled()

    stage.editing(group="another VM", view="targets", open=True)
    expect(button).to_be_enabled()


def test_a_run_shows_its_phase_and_can_be_cancelled(stage: Stage) -> None:
    shown = stage.show("run.js", run_state(**RUNNING))

    expect(shown.get_by_role("progressbar", name="Progress")).to_have_js_property("value", 3)
    expect(shown.get_by_role("progressbar", name="Progress")).to_have_js_property("max", 7)
    expect(shown.get_by_role("status", name="Phase")).to_have_text(RUNNING["phase"])
    shown.get_by_role("button", name="Cancel").click()
    assert stage.sent == [{"do": "cancel"}]


def test_after_the_switch_it_cannot_be_cancelled(stage: Stage) -> None:
    shown = stage.show("run.js", run_state(**RUNNING | {"cancellable": False}))

    expect(shown.get_by_role("button", name="Cancel")).to_be_disabled()


def test_the_focus_is_not_lost_when_cancel_goes(stage: Stage) -> None:
    shown = stage.show("run.js", run_state(**RUNNING))
    shown.get_by_role("button", name="Cancel").focus()

    stage.update(running=False, reason="", phase="")

    expect(shown.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(shown.get_by_role("button", name="Snapshot 2 disks")).to_be_focused()


def test_the_outcome_is_announced_with_before_and_after(stage: Stage) -> None:
    shown = stage.show("run.js", run_state())
    outcome = shown.get_by_role("status", name="Outcome")

    stage.update(outcome={"words": "ok: 1 disk.", "ok": True, "findings": [], "rows": [ROW]})

    expect(outcome).to_contain_text("ok: 1 disk.")
    expect(outcome.get_by_role("table", name="Before and after")).to_match_aria_snapshot("""
        - rowgroup:
          - row "drive0 /imgs/a.img /imgs/a.snap 0 1 ok"
        """)


def test_findings_are_listed_as_text(stage: Stage, page: Page) -> None:
    rows = [{**ROW, "device": text, "label": text, "file_after": text} for text in HOSTILE]
    found = {"words": HOSTILE[0], "ok": False, "findings": list(HOSTILE), "rows": rows}

    shown = stage.show("run.js", run_state(outcome=found))

    expect(shown.get_by_role("listitem")).to_have_count(len(HOSTILE))
    assert shown.locator("img, script").count() == 0
    assert page.evaluate("() => window.hacked") is None
