"""The Targets panel in a browser, without a kernel."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from snapkit.widgets import Targets
from tests.widgets.conftest import Stage
from tests.widgets.scenes import HOSTILE, device, session, state

PROBLEM = {"severity": "error", "message": "the file exists", "remedy": "Choose another name."}
WARNING = {"severity": "warning", "message": "it is not local", "remedy": "Look there."}


def targets_state(*names: str, **changes: Any) -> dict[str, Any]:
    return state(Targets(session(*map(device, names or ("drive0",))))) | changes


def test_every_control_of_a_row_has_its_name(stage: Stage) -> None:
    cd = device("cd0", why_not="it has no medium", layers=())
    shown = stage.show("targets.js", state(Targets(session(device("drive0"), cd))))

    expect(shown.get_by_role("table", name="Targets")).to_match_aria_snapshot("""
        - table "Targets":
          - caption: Targets
          - rowgroup:
            - row:
              - columnheader "Include"
              - columnheader "Device"
              - columnheader "Snapshot file"
              - columnheader "Format"
              - columnheader "Mode"
          - rowgroup:
            - row:
              - cell "Include drive0":
                - checkbox "Include drive0" [checked]
              - rowheader "drive0"
              - cell:
                - textbox "Snapshot file for drive0": /imgs/drive0.qcow2.snap1
              - cell:
                - combobox "Format for drive0":
                  - option "qcow2" [selected]
                  - option "qed"
              - cell:
                - combobox "Mode for drive0":
                  - option "absolute-paths" [selected]
                  - option "existing"
            - row:
              - cell "Include cd0":
                - checkbox "Include cd0" [disabled]
              - rowheader "cd0"
              - cell:
                - textbox "Snapshot file for cd0" [disabled]
                - paragraph: "Cannot be snapshotted: it has no medium."
              - cell:
                - combobox "Format for cd0" [disabled]
              - cell:
                - combobox "Mode for cd0" [disabled]
        """)


def test_each_edit_tells_the_kernel_what_changed(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state())

    shown.get_by_label("Snapshot file for drive0").fill("/imgs/a.snap")
    shown.get_by_label("Format for drive0").select_option("qed")
    shown.get_by_label("Mode for drive0").select_option("existing")
    shown.get_by_label("Include drive0").uncheck()

    assert stage.sent == [
        {"do": "edit", "device": "drive0", "name": name, "value": value}
        for name, value in (
            ("file", "/imgs/a.snap"),
            ("format", "qed"),
            ("mode", "existing"),
            ("include", False),
        )
    ]


def test_a_burst_of_typing_is_told_once(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state())

    file = shown.get_by_label("Snapshot file for drive0")
    file.fill("")
    file.press_sequentially("/imgs/b.snap")
    file.blur()

    assert stage.sent[-1]["value"] == "/imgs/b.snap"
    assert len(stage.sent) < len("/imgs/b.snap")


def test_a_problem_stands_beside_its_row_with_its_remedy(stage: Stage) -> None:
    given = targets_state("drive0", "drive1", problems={"drive0": [PROBLEM], "drive1": [WARNING]})
    shown = stage.show("targets.js", given)

    wrong = shown.get_by_label("Snapshot file for drive0")
    expect(wrong).to_have_attribute("aria-invalid", "true")
    expect(wrong).to_have_accessible_description("Problem: the file exists. Choose another name.")
    warned = shown.get_by_label("Snapshot file for drive1")
    expect(warned).not_to_have_attribute("aria-invalid", "true")
    expect(warned).to_have_accessible_description("Warning: it is not local. Look there.")

    stage.update(problems={})
    expect(wrong).not_to_have_attribute("aria-invalid", "true")
    expect(shown.get_by_text("Choose another name")).to_have_count(0)


def test_a_problem_of_the_whole_plan_stands_above_the_table(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state(problems={"": [PROBLEM]}))

    problems = shown.get_by_role("list", name="Problems of the whole plan")
    expect(problems).to_contain_text("Problem: the file exists. Choose another name.")


def test_a_problem_does_not_move_the_focus_or_change_what_is_typed(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state("drive0", "drive1"))
    file = shown.get_by_label("Snapshot file for drive1")
    file.press("End")
    file.press_sequentially("x")

    stage.update(problems={"drive0": [PROBLEM], "drive1": [PROBLEM]}, summary="2 problems.")

    expect(file).to_be_focused()
    expect(file).to_have_value("/imgs/drive1.qcow2.snap1x")
    expect(shown.get_by_role("status", name="Checks")).to_have_text("2 problems.")


def test_the_template_is_filled_in_by_button_and_by_enter(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state())
    template = shown.get_by_role("textbox", name="Template")

    template.fill("{directory}/x")
    template.press("Enter")
    stage.update(template="{directory}/x")
    stage.answer()
    shown.get_by_role("button", name="Fill in").click()

    fills = [message for message in stage.sent if message["do"] == "fill"]
    assert fills == [{"do": "fill", "template": "{directory}/x"}] * 2


def test_all_or_none_can_be_included(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state())

    shown.get_by_role("button", name="Include none").click()
    shown.get_by_role("button", name="Include all").click()

    assert stage.sent == [{"do": "include", "value": False}, {"do": "include", "value": True}]


def test_a_format_that_code_has_filled_in_is_shown_as_it_is(stage: Stage) -> None:
    given = targets_state()
    given["rows"] = [{**given["rows"][0], "format": "vmdk"}]

    shown = stage.show("targets.js", given)

    expect(shown.get_by_label("Format for drive0")).to_have_value("vmdk")


def test_hostile_names_stay_in_their_rows_and_execute_nothing(stage: Stage, page: Page) -> None:
    devices = [device(f"{n}{text}", file=text) for n, text in enumerate(HOSTILE)]
    panel = Targets(session(*devices))
    problem = {"severity": "error", "message": HOSTILE[0], "remedy": HOSTILE[1]}

    shown = stage.show("targets.js", state(panel) | {"problems": {devices[0].name: [problem]}})

    expect(shown.get_by_role("row")).to_have_count(len(HOSTILE) + 1)
    for text in HOSTILE[:3]:
        expect(shown.locator(f"input[value={text!r}]")).to_have_count(0)
    assert shown.locator("img, script").count() == 0
    assert page.evaluate("() => window.hacked") is None
    assert shown.evaluate("(el) => el.scrollWidth <= el.clientWidth")


def test_a_thousand_rows_do_not_lose_a_keystroke(stage: Stage) -> None:
    names = [f"drive{n}" for n in range(1000)]
    given = targets_state(*names)
    shown = stage.show("targets.js", given)
    file = shown.get_by_label("Snapshot file for drive999", exact=True)

    file.focus()
    file.press("End")
    for letter in "abcdef":
        stage.update(problems={"drive5": [{**PROBLEM, "message": letter}]})
        file.press(letter)

    expect(file).to_have_value("/imgs/drive999.qcow2.snap1abcdef")


def test_from_the_first_key_to_the_answer_the_page_knows_of_the_edit(stage: Stage) -> None:
    shown = stage.show("targets.js", targets_state())

    shown.get_by_label("Snapshot file for drive0").press("x")
    assert stage.edits == [True]
    stage.wait_sent(1)
    assert stage.edits == [True]

    stage.answer()
    assert stage.edits == [True, False]


def test_a_closed_view_holds_nothing_back(stage: Stage, page: Page) -> None:
    shown = stage.show("targets.js", targets_state())
    shown.get_by_label("Snapshot file for drive0").fill("/imgs/last words")

    page.evaluate("() => dispose()")

    assert stage.sent[-1]["value"] == "/imgs/last words"
    assert stage.edits[-1] is False
