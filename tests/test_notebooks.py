"""The notebooks as their readers get them: the article's own steps, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nbformat
import pytest

from tests.conftest import wait_until
from tests.lab.watch import mentioning

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTE = "import notebooks, pathlib, sys; notebooks.run(pathlib.Path(sys.argv[1]))"
SECONDS = 200


def cells(name: str) -> list[tuple[str, str]]:
    """Every cell of code, and what it printed when its notebook was stored."""
    notebook: Any = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    return [
        (cell.source, "".join(output.get("text", "") for output in cell.outputs))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def printed(line: str) -> str:
    """What the cell of the libvirt notebook printed that has this line, as its first one does."""
    return next(
        text for source, text in cells("02-libvirt-by-hand.ipynb") if line in source.splitlines()
    )


def elements(text: str) -> list[ET.Element]:
    return list(ET.fromstring(f"<all>{text}</all>"))  # noqa: S314  libvirt wrote it


def disk(row: ET.Element) -> tuple[str, str, str]:
    """The target, the driver's type and the image of a ``<disk>``."""
    target, driver, source = row.find("target"), row.find("driver"), row.find("source")
    assert target is not None
    assert driver is not None
    assert source is not None
    return target.attrib["dev"], driver.attrib["type"], Path(source.attrib["file"]).name


def test_the_libvirt_notebook_s_shell_takes_the_article_s_steps() -> None:
    created = printed("virsh create win2003.xml")
    assert "Domain 'win2003' created from win2003.xml" in created
    line = "virsh snapshot-create win2003 --xmlfile ./snap.xml --disk-only --atomic"
    assert re.fullmatch(r"Domain snapshot \d+ created from './snap.xml'", printed(line).strip())


def test_the_libvirt_notebook_s_disks_are_the_article_s_before_and_after() -> None:
    before = elements(printed("sed -n '/<disk/,/<.disk>/p' win2003.xml"))
    assert [disk(row) for row in before if row.get("device") == "disk"] == [
        ("vda", "raw", "win2003.img"),
        ("vdb", "qcow2", "data.qcow2"),
    ]
    shown = "virsh dumpxml win2003 | sed -n \"/<disk type='file' device='disk'>/,/<.disk>/p\""
    after = elements(printed(shown))
    assert [disk(row) for row in after] == [("vda", "qcow2", "w.snap"), ("vdb", "qcow2", "d.snap")]


def test_the_libvirt_notebook_s_xml_is_the_article_s() -> None:
    (root,) = elements(printed("print(snap_xml)"))
    assert root.tag == "domainsnapshot"
    assert root.findtext("description") == "Test Libvirt Snapshot-Create"
    named = {
        Path(row.attrib["name"]).name: Path(source.attrib["file"]).name
        for row in root.iterfind("disks/disk")
        if (source := row.find("source")) is not None
    }
    assert named == {"win2003.img": "w.snap", "data.qcow2": "d.snap"}
    assert all(row.attrib["name"].startswith("/") for row in root.iterfind("disks/disk"))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A place for labs: short enough for sockets, and open to the user that libvirt runs as."""
    directory = Path(tempfile.mkdtemp(prefix="sk-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_leaves_nothing_behind_and_nothing_of_libvirt_in_the_home(
    notebook: Path, temporary: Path, tmp_path: Path
) -> None:
    """Run as ``make notebooks`` runs it, with nothing of the user's."""
    home = tmp_path
    copy = Path(shutil.copy(notebook, home))
    mine = {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "SNAPKIT_JOURNAL": str(home / "journal.sqlite"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    with subprocess.Popen(
        [sys.executable, "-c", EXECUTE, copy],
        env={**kept, **mine},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise

    assert process.returncode == 0, said
    assert f"{temporary}/snapkit-lab-" in copy.read_text(encoding="utf-8")
    wait_until(lambda: not mentioning(str(temporary)), "the end of all that the notebook started")
    assert list(temporary.glob("snapkit-lab-*")) == []
    assert [path for path in home.rglob("*") if "libvirt" in path.relative_to(home).parts] == []
