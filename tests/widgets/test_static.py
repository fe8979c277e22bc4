"""Panels without a kernel: text and HTML."""

from __future__ import annotations

import re

from snapkit.widgets import Devices, Targets
from snapkit.widgets.static import Static
from tests.widgets.scenes import HOSTILE, device, session

TABLE = Static("Title", ("Said.",), ("A", "B"), (("1", "<b>"), ("x\ny", "")), code="if a < b:\n  c")


def test_text_has_a_line_a_row() -> None:
    assert TABLE.to_text().splitlines() == [
        "Title: Said.",
        "    A | B",
        "    1 | <b>",
        r"    x\ny |",
        "    if a < b:",
        "      c",
    ]


def test_html_is_a_table_with_escaped_text() -> None:
    assert TABLE.to_html() == (
        "<p><strong>Title</strong> Said.</p>"
        "<table><caption>Title</caption>"
        '<thead><tr><th scope="col">A</th><th scope="col">B</th></tr></thead>'
        "<tbody><tr><td>1</td><td>&lt;b&gt;</td></tr><tr><td>x\\ny</td><td></td></tr></tbody>"
        "</table><pre>if a &lt; b:\n  c</pre>"
    )


def test_hostile_names_are_text_in_the_static_html() -> None:
    made = session(*(device(f"{n}{text}", file=text) for n, text in enumerate(HOSTILE)))

    for panel in (Devices(made), Targets(made)):
        html = panel.static().to_html()
        tags = set(re.findall(r"</?([a-zA-Z]\w*)", html))
        assert tags <= {"p", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert "\u202e" not in html


def test_no_size_that_grows_and_no_address_is_stored() -> None:
    bundle = Devices(session(device("drive0")))._repr_mimebundle_()

    assert bundle is not None
    assert bundle[0]["text/plain"] == (
        "Devices: Not connected.\n"
        "    Device | File | Format | Size | Depth | Snapshot possible\n"
        "    drive0 | /imgs/drive0.qcow2 | qcow2 | 64 MiB | 0 | yes"
    )
    assert {"text/html", "application/vnd.jupyter.widget-view+json"} <= set(bundle[0])
