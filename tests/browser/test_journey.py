"""The main job as people do it: the Studio, in a real JupyterLab, in a real Chromium."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Notebook, OpenNotebook
from tests.conftest import Qmp, chain_of, wait_until

pytestmark = pytest.mark.browser

START_LAB = """
import snapkit, json
lab = snapkit.Lab(backend={backend!r})
where = [lab.uri, lab.domain or "", lab.spare_uri, str(lab.directory)]
print(json.dumps([*where, list(lab.images)]))
"""
STUDIO = "snapkit.Studio()"
STUDIO_OF_THE_LAB = "snapkit.Studio(lab.connect())"
BUSY = """
import os, time
print('busy', flush=True)
while not os.path.exists({stop!r}):
    time.sleep(0.05)
print('done')
"""
SECONDS = 30_000
on_both = pytest.mark.parametrize("backend", ["qmp", "libvirt"], indirect=True)


@dataclass
class Shown:
    """A notebook with a lab and a Studio, and the way to look at the lab from outside."""

    notebook: Notebook
    page: Page
    uri: str
    domain: str
    spare: str
    directory: Path
    names: list[str]

    def files(self) -> dict[str, str]:
        """The image that each disk is on, by a connection of its own."""
        if self.domain:
            command = ["virsh", "--quiet", "-c", self.uri, "domblklist", self.domain]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return dict(line.split() for line in said.splitlines())
        with Qmp(self.spare.removeprefix("unix:")) as qmp:
            return {b["device"]: b["inserted"]["file"] for b in qmp.execute("query-block")}

    def press(self) -> None:
        self.page.get_by_role("button", name="Snapshot 2 disks").click()

    def connect(self) -> None:
        """Connect by endpoint, or to the domain that is offered, and allow changes."""
        if self.domain:
            offered = self.page.get_by_label("On this host")
            offered.select_option(label=f"{self.domain}, {self.uri}, running")
            expect(self.page.get_by_label("Domain")).to_have_value(self.domain)
        else:
            self.page.get_by_label("Endpoint").fill(self.uri)
        self.page.get_by_role("button", name="Connect").click()
        expect(self.page.get_by_role("status", name="Connection")).to_contain_text(
            "read-only", timeout=SECONDS
        )
        self.page.get_by_role("checkbox", name="Allow changes").check()


def show(notebook: Notebook) -> Shown:
    """Run the first cell, which starts a lab, and the second, which shows a Studio."""
    notebook.run(0)
    text = wait_until(lambda: notebook.output(0), "the lab is up", 60)
    uri, domain, spare, directory, names = json.loads(text)
    notebook.run(1)
    expect(notebook.page.get_by_role("region", name="Run")).to_be_visible(timeout=SECONDS)
    return Shown(notebook, notebook.page, uri, domain, spare, Path(directory), names)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """What runs the lab: a plain QEMU, unless a test asks for both."""
    return str(getattr(request, "param", "qmp"))


@pytest.fixture
def studio(open_notebook: OpenNotebook, backend: str) -> Shown:
    return show(open_notebook(START_LAB.format(backend=backend), STUDIO))


@on_both
def test_connect_choose_mistake_remedy_run_outcome(studio: Shown) -> None:
    page = studio.page
    button = page.get_by_role("button", name="Snapshot 2 disks")
    studio.connect()

    devices = page.get_by_role("table", name="Devices")
    first, second = studio.names
    before = re.compile(f"{first} .*win2003.img raw 64 MiB 0 yes")
    expect(devices.get_by_role("row", name=before)).to_be_visible()
    expect(button).to_be_enabled(timeout=SECONDS)

    file = page.get_by_label(f"Snapshot file for {first}")
    filled_in = file.input_value()
    existing = studio.directory / "data.qcow2"
    file.fill(str(existing))
    expect(file).to_have_accessible_description(re.compile("Problem: .*data.qcow2"))
    expect(button).to_be_disabled()
    assert studio.files()[first] == str(studio.directory / "win2003.img")

    file.fill(filled_in)
    expect(button).to_be_enabled(timeout=SECONDS)
    review = page.get_by_role("region", name="Review")
    tab, words = ("virsh", "snapshot-create") if studio.domain else ("QMP", '"transaction"')
    review.get_by_role("tab", name=tab).click()
    expect(review.get_by_role("tabpanel")).to_contain_text(words)
    expect(review.get_by_role("tabpanel")).to_contain_text(filled_in)

    button.click()

    outcome = page.get_by_role("status", name="Outcome")
    expect(outcome).to_contain_text("ok: 2 disks switched at one instant", timeout=SECONDS)
    expect(outcome.get_by_role("row")).to_have_count(3)
    after = re.compile(f"{first} .*win2003.snap1.qcow2")
    expect(devices.get_by_role("row", name=after)).to_be_visible()
    expect(file).to_have_value(re.compile(r"win2003\.snap2\.qcow2$"))
    expect(page.locator(".snapkit").get_by_role("alert")).to_have_count(0)

    now = studio.files()
    assert now[first] == filled_in
    assert [layer["filename"] for layer in chain_of(now[first])] == [
        filled_in,
        str(studio.directory / "win2003.img"),
    ]
    assert len(chain_of(now[second])) == 2


@on_both
def test_a_snapshot_while_a_cell_computes(
    open_notebook: OpenNotebook, tmp_path: Path, backend: str
) -> None:
    busy = BUSY.format(stop=str(tmp_path / "stop"))
    studio = show(open_notebook(START_LAB.format(backend=backend), STUDIO_OF_THE_LAB, busy))
    page = studio.page
    button = page.get_by_role("button", name="Snapshot 2 disks")
    expect(button).to_be_enabled(timeout=SECONDS)
    studio.notebook.run(2)
    wait_until(lambda: "busy" in studio.notebook.output(2), "the cell computes")

    button.click()

    outcome = page.get_by_role("status", name="Outcome")
    expect(outcome).to_contain_text("ok: 2 disks", timeout=SECONDS)
    assert "done" not in studio.notebook.output(2)
    assert studio.files()[studio.names[1]] == str(studio.directory / "data.snap1.qcow2")
    (tmp_path / "stop").touch()
    wait_until(lambda: "done" in studio.notebook.output(2), "the cell ends")


def test_an_error_in_a_callback_is_seen_in_the_panel(studio: Shown) -> None:
    page = studio.page

    page.get_by_label("Endpoint").fill(f"unix:{studio.directory}/nothing.sock")
    page.get_by_role("button", name="Connect").click()

    alert = page.get_by_role("region", name="Connect").get_by_role("alert")
    expect(alert).to_contain_text("nothing.sock", timeout=SECONDS)
    expect(page.get_by_role("status", name="Connection")).to_have_text("Not connected.")


def test_d_d_on_any_control_deletes_no_cell(studio: Shown) -> None:
    page = studio.page
    studio.connect()
    expect(page.get_by_role("button", name="Snapshot 2 disks")).to_be_enabled(timeout=SECONDS)
    cells = studio.notebook.cells

    controls = page.locator(".snapkit").locator("button, input, select, pre").all()
    for control in controls:
        if control.is_visible() and control.is_enabled():
            control.focus()
            page.keyboard.press("Escape")
            page.keyboard.press("d")
            page.keyboard.press("d")

    assert len(controls) > 15
    assert studio.notebook.cells == cells
