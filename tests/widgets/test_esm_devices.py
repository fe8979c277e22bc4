"""The Devices panel in a browser, without a kernel."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from snapkit.widgets import Devices
from tests.widgets.conftest import Stage
from tests.widgets.scenes import HOSTILE, device, session, state


def test_the_table_reads_as_a_table(stage: Stage) -> None:
    panel = Devices(session(device("drive0"), device("cd0", why_not="it has no medium", layers=())))

    shown = stage.show("devices.js", state(panel))

    expect(shown).to_match_aria_snapshot("""
        - region "Devices":
          - heading "Devices" [level=3]
          - status "Devices found": Not connected.
          - button "Refresh"
          - table "Devices":
            - caption: Devices
            - rowgroup:
              - row:
                - columnheader "Device"
                - columnheader "File"
                - columnheader "Format"
                - columnheader "Size"
                - columnheader "Depth"
                - columnheader "Snapshot possible"
            - rowgroup:
              - row:
                - rowheader "drive0"
                - cell "/imgs/drive0.qcow2"
                - cell "qcow2"
                - cell "64 MiB"
                - cell "0"
                - cell "yes"
              - row:
                - rowheader "cd0"
                - cell
                - cell
                - cell
                - cell "0"
                - 'cell "no: it has no medium"'
        """)


def test_the_plain_module_with_its_import_shows_the_same(stage: Stage) -> None:
    given = state(Devices(session(device("drive0"))))

    inlined = stage.show("devices.js", given).aria_snapshot()

    assert inlined == stage.show("devices.js", given, where="/").aria_snapshot()


def test_a_size_has_its_exact_bytes_as_title(stage: Stage) -> None:
    shown = stage.show("devices.js", state(Devices(session(device("drive0")))))

    expect(shown.get_by_role("cell", name="64 MiB")).to_have_attribute("title", "67,108,864 bytes")


def test_hostile_names_are_shown_and_execute_nothing(stage: Stage, page: Page) -> None:
    panel = Devices(session(*(device(f"{n}{text}", file=text) for n, text in enumerate(HOSTILE))))

    shown = stage.show("devices.js", state(panel))

    expect(shown.get_by_role("row")).to_have_count(len(HOSTILE) + 1)
    assert shown.locator("img, script").count() == 0
    assert page.evaluate("() => window.hacked") is None
    assert "\u202e" not in shown.inner_text()
    assert r"turned\u202eround\u2066gnp.exe" in shown.inner_text()
    assert shown.evaluate("(el) => el.scrollWidth <= el.clientWidth")


def test_an_update_keeps_the_rows_their_selection_and_the_focus(stage: Stage, page: Page) -> None:
    first, second = device("drive0"), device("drive1")
    shown = stage.show("devices.js", state(Devices(session(first, second))))
    shown.get_by_role("button", name="Refresh").focus()
    row = shown.get_by_role("row", name="drive1").element_handle()

    new = state(Devices(session(device("drive00"), device("drive1", file="/imgs/new.qcow2"))))
    stage.update(**new)

    expect(shown.get_by_role("rowheader")).to_have_text(["drive00", "drive1"])
    assert page.evaluate("(row) => row.isConnected && row.innerText.includes('new')", row)
    expect(shown.get_by_role("button", name="Refresh")).to_be_focused()


def test_refresh_is_asked_for_once_until_it_is_answered(stage: Stage) -> None:
    button = stage.show("devices.js", state(Devices(session()))).get_by_role("button")

    button.dblclick()
    button.click()
    assert stage.sent == [{"do": "refresh"}]

    stage.answer()
    button.click()
    assert stage.sent == [{"do": "refresh"}] * 2


def test_a_click_that_waits_for_a_busy_kernel_says_so(stage: Stage) -> None:
    shown = stage.show("devices.js", state(Devices(session())))

    shown.get_by_role("button", name="Refresh").click()
    expect(shown.get_by_text("Asked the kernel, which is busy")).to_be_visible()

    stage.answer()
    expect(shown.get_by_text("Asked the kernel")).to_be_hidden()


def test_an_error_is_an_alert(stage: Stage) -> None:
    shown = stage.show("devices.js", state(Devices(session())))
    expect(shown.get_by_role("alert")).to_have_count(0)

    stage.update(error="the <b>monitor</b> is busy")

    expect(shown.get_by_role("alert")).to_have_text("Error: the <b>monitor</b> is busy")


def test_a_kernel_that_is_gone_is_an_alert(stage: Stage, page: Page) -> None:
    shown = stage.show("devices.js", state(Devices(session())))
    page.evaluate("() => { model.send = () => { throw new Error('comm is closed'); }; }")

    shown.get_by_role("button", name="Refresh").click()

    expect(shown.get_by_role("alert")).to_have_text(re.compile("kernel cannot be reached"))


def test_keys_do_not_reach_the_notebook(stage: Stage, page: Page) -> None:
    page.evaluate("() => { window.keys = []; addEventListener('keydown', (e) => keys.push(e)); }")
    shown = stage.show("devices.js", state(Devices(session(device("drive0")))))

    shown.get_by_role("button", name="Refresh").focus()
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert page.evaluate("() => keys.length") == 0

    page.keyboard.press("Enter")
    assert stage.wait_sent(1) == [{"do": "refresh"}]


def test_a_closed_view_follows_the_model_no_more(stage: Stage, page: Page) -> None:
    stage.show("devices.js", state(Devices(session(device("drive0")))))

    page.evaluate("() => dispose()")

    assert page.evaluate("() => [...model.listeners.values()].every((calls) => !calls.size)")
