"""The matrix as a table, at the end of the run that made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from _pytest.terminal import TerminalReporter

__all__ = [
    "CELL",
    "DOMAIN_CELL",
    "DOMAIN_MOMENTS",
    "MOMENTS",
    "REMARK",
    "pytest_terminal_summary",
    "table",
]

MOMENTS = (
    "before prepare",
    "within prepare",
    "before the switch",
    "switch sent, no reply",
    "after the switch",
    "within verify",
    "within undo",
)
DOMAIN_MOMENTS = (
    "after the plan",
    *MOMENTS[:3],
    "within the switch",
    "QEMU has switched",
    *MOMENTS[3:],
)
"""Within the switch the daemon has prepared QEMU, and QEMU was not asked to switch yet; then
QEMU has switched, and the daemon does not know it; then the daemon has answered, and the
client does not know it."""
FAULTS = (
    "QEMU killed",
    "client killed",
    "kernel restarted",
    "kernel asked to restart",
    "domain ends",
    "domain started anew",
    "domain undefined",
    "daemon restarted",
    "daemon away",
    "connection cut",
    "disk full",
    "permission withdrawn",
    "file system read-only",
    "device unplugged",
    "second client",
    "virsh snapshot",
    "second snapkit",
    "another recovers",
    "file appears",
    "directory removed",
)
CELL = "cell of the fault matrix"
"""The property of a test that holds (fault, moment, what became of it)."""
DOMAIN_CELL = "cell of the fault matrix of a libvirt domain"
REMARK = "remark to the fault matrix"

TABLES = {
    CELL: ("faults x moments", MOMENTS),
    DOMAIN_CELL: ("faults x moments of a libvirt domain", DOMAIN_MOMENTS),
}
LEGEND = """\
old, new: all disks are where they were, or all are on their overlays.
done, undone: by the run itself; with findings: and it said what was not as it should be.
recovered: by snapkit.recover() in another process; before that, the journal's word until then."""


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the cells of all reports, whichever process made them."""
    cells: dict[str, dict[tuple[str, str], str]] = {CELL: {}, DOMAIN_CELL: {}}
    remarks: dict[str, None] = {}
    for name, value in _properties(terminalreporter):
        if name in cells:
            fault, moment, text = value
            cells[name][fault, moment] = text
        elif name == REMARK:
            remarks[value] = None
    for name, (title, moments) in TABLES.items():
        if cells[name]:
            terminalreporter.section(title)
            for line in table(cells[name], moments):
                terminalreporter.write_line(line)
    if any(cells.values()):
        for line in (LEGEND, *remarks):
            terminalreporter.write_line(line)


def _properties(terminalreporter: TerminalReporter) -> Iterable[tuple[str, Any]]:
    """What the tests have recorded."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            yield from getattr(report, "user_properties", ())


def table(cells: dict[tuple[str, str], str], moments: Sequence[str] = MOMENTS) -> Iterable[str]:
    """A line a fault, a column a moment."""
    faults = [fault for fault in FAULTS if any(fault == name for name, _ in cells)]
    rows = [["", *moments]]
    rows += [[fault, *(cells.get((fault, moment), "-") for moment in moments)] for fault in faults]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield "  ".join(texts).rstrip()
