"""The matrix as a table, at the end of the run that made it."""

from __future__ import annotations

from collections.abc import Iterable

from _pytest.terminal import TerminalReporter

__all__ = ["CELL", "MOMENTS", "REMARK", "pytest_terminal_summary", "table"]

MOMENTS = (
    "before prepare",
    "within prepare",
    "before the switch",
    "switch sent, no reply",
    "after the switch",
    "within verify",
    "within undo",
)
FAULTS = (
    "QEMU killed",
    "client killed",
    "kernel restarted",
    "kernel asked to restart",
    "connection cut",
    "disk full",
    "permission withdrawn",
    "file system read-only",
    "device unplugged",
    "second client",
    "another recovers",
    "file appears",
    "directory removed",
)
CELL = "cell of the fault matrix"
"""The property of a test that holds (fault, moment, what became of it)."""
REMARK = "remark to the fault matrix"

LEGEND = """\
old, new: all disks are where they were, or all are on their overlays.
done, undone: by the run itself; with findings: and it said what was not as it should be.
recovered: by snapkit.recover() in another process; before that, the journal's word until then."""


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the cells of all reports, whichever process made them."""
    cells: dict[tuple[str, str], str] = {}
    remarks: dict[str, None] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == CELL:
                    fault, moment, text = value
                    cells[fault, moment] = text
                elif name == REMARK:
                    remarks[value] = None
    if cells:
        terminalreporter.section("faults x moments")
        for line in table(cells):
            terminalreporter.write_line(line)
        for line in (LEGEND, *remarks):
            terminalreporter.write_line(line)


def table(cells: dict[tuple[str, str], str]) -> Iterable[str]:
    """A line a fault, a column a moment."""
    faults = [fault for fault in FAULTS if any(fault == name for name, _ in cells)]
    rows = [["", *MOMENTS]]
    rows += [[fault, *(cells.get((fault, moment), "-") for moment in MOMENTS)] for fault in faults]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield "  ".join(texts).rstrip()
