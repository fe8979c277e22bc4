"""The Connect panel in a browser, without a kernel."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from snapkit.widgets import Connect
from tests.widgets.conftest import Stage
from tests.widgets.scenes import session, state


def connect_state(**changes: Any) -> dict[str, Any]:
    panel = Connect(session())
    panel.wait()
    return state(panel) | {"endpoints": []} | changes


CONNECTED: dict[str, Any] = {"connected": True, "status": "Connected to a VM, read-only."}


def test_the_form_has_the_names_that_people_rely_on(stage: Stage) -> None:
    shown = stage.show("connect.js", connect_state())

    expect(shown).to_match_aria_snapshot("""
        - region "Connect":
          - heading "Connect" [level=3]
          - status "Connection": Not connected.
          - text: Endpoint
          - textbox "Endpoint":
            - /placeholder: "unix:/path/to/socket, tcp:localhost:4444 or qemu:///system"
          - text: Domain
          - textbox "Domain":
            - /placeholder: libvirt only
          - button "Connect"
          - text: On this host
          - combobox "On this host" [disabled]:
            - option "None found" [selected]
          - button "Look again"
          - paragraph:
            - checkbox "Allow changes" [disabled]
            - text: Allow changes A connection starts read-only.
        """)


def test_connect_sends_what_is_typed(stage: Stage) -> None:
    shown = stage.show("connect.js", connect_state())

    shown.get_by_label("Endpoint").fill("unix:/run/vm.qmp")
    shown.get_by_label("Domain").fill("win")
    shown.get_by_role("button", name="Connect").click()

    said = {"endpoint": "unix:/run/vm.qmp", "domain": "win"}
    assert stage.sent[-1] == {**said, "do": "press", "connected": False}
    assert {**said, "do": "edit"} in stage.sent


def test_enter_in_the_endpoint_connects(stage: Stage) -> None:
    shown = stage.show("connect.js", connect_state())
    shown.get_by_label("Endpoint").fill("/run/vm.qmp")

    shown.get_by_label("Endpoint").press("Enter")

    assert stage.sent[-1]["do"] == "press"


def test_a_connection_offers_disconnect_at_the_same_place(stage: Stage, page: Page) -> None:
    shown = stage.show("connect.js", connect_state())
    shown.get_by_role("button", name="Connect").click()
    stage.answer()

    stage.update(**CONNECTED)

    button = shown.get_by_role("button", name="Disconnect")
    expect(button).to_be_focused()
    expect(shown.get_by_role("status", name="Connection")).to_have_text(CONNECTED["status"])
    page.keyboard.press("Enter")
    assert stage.sent[-1] == {"do": "press", "connected": True, "endpoint": "", "domain": ""}


def test_the_button_cannot_be_pressed_while_connecting(stage: Stage) -> None:
    shown = stage.show("connect.js", connect_state(busy=True))

    expect(shown.get_by_role("button", name="Connect")).to_be_disabled()
    shown.get_by_role("button", name="Connect").click(force=True)

    assert stage.sent == []


def test_allow_changes_shows_what_the_kernel_says(stage: Stage) -> None:
    shown = stage.show("connect.js", connect_state(**CONNECTED))
    allow = shown.get_by_role("checkbox", name="Allow changes")
    expect(allow).not_to_be_checked()

    allow.check()
    assert stage.sent == [{"do": "allow", "value": True}]

    stage.answer()  # the kernel has refused
    expect(allow).not_to_be_checked()
    stage.update(allowed=True)
    expect(allow).to_be_checked()


def test_an_endpoint_of_this_host_can_be_chosen(stage: Stage) -> None:
    found = [{"endpoint": "unix:/run/a", "domain": "", "label": "lab <b>, unix:/run/a, free"}]
    shown = stage.show("connect.js", connect_state(endpoints=found))

    shown.get_by_label("On this host").select_option(label="lab <b>, unix:/run/a, free")

    expect(shown.get_by_label("Endpoint")).to_have_value("unix:/run/a")
    assert stage.sent == [{"do": "edit", "endpoint": "unix:/run/a", "domain": ""}]


def test_two_domains_of_one_libvirt_are_two_choices(stage: Stage) -> None:
    uri = "qemu:///system"
    found = [{"endpoint": uri, "domain": name, "label": f"{name}, {uri}, running"} for name in "ab"]
    found.append({"endpoint": "unix:/run/a", "domain": "", "label": "unix:/run/a, free"})
    shown = stage.show("connect.js", connect_state(endpoints=found))
    choice = shown.get_by_label("On this host")

    choice.select_option(label="b, qemu:///system, running")

    expect(shown.get_by_label("Endpoint")).to_have_value(uri)
    expect(shown.get_by_label("Domain")).to_have_value("b")
    assert stage.sent[-1] == {"do": "edit", "endpoint": uri, "domain": "b"}
    stage.update(endpoint=uri, domain="b")
    stage.answer()
    expect(choice.locator("option:checked")).to_have_text("b, qemu:///system, running")
    stage.update(domain="typed by hand")
    expect(choice.locator("option:checked")).to_have_text("3 found: choose one")

    choice.select_option(label="unix:/run/a, free")

    expect(shown.get_by_label("Domain")).to_have_value("")
    assert stage.sent[-1] == {"do": "edit", "endpoint": "unix:/run/a", "domain": ""}


def test_typing_is_not_overwritten_by_an_older_answer(stage: Stage, page: Page) -> None:
    shown = stage.show("connect.js", connect_state())
    endpoint = shown.get_by_label("Endpoint")
    endpoint.press_sequentially("loc")
    stage.wait_sent(1)
    endpoint.press_sequentially("al")

    stage.update(endpoint="loc")
    expect(endpoint).to_have_value("local")

    count = len(stage.sent)
    page.wait_for_function("(last) => model.sent.at(-1).endpoint === 'local'", arg=count)
    stage.update(endpoint="local")
    stage.answer()
    stage.update(endpoint="set by code")
    expect(endpoint).to_have_value("set by code")


def test_a_monitor_that_anyone_can_reach_is_marked(stage: Stage) -> None:
    shown = stage.show("connect.js", connect_state(exposed="Warning: open to anyone."))

    expect(shown.get_by_text("Warning: open to anyone.")).to_be_visible()
    expect(shown.get_by_label("Endpoint")).to_have_accessible_description(
        "Warning: open to anyone."
    )
