"""What every panel has: one error path, answers to messages, modules, a shared session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import snapkit
from snapkit import widgets
from snapkit.errors import ConnectError
from snapkit.widgets import Connect, Devices, Run, Studio, Targets
from snapkit.widgets.base import Panel, _answer_beside_cells, esm
from snapkit.widgets.session import Session

PANELS = (widgets.Connect, widgets.Devices, widgets.Targets, widgets.Review, widgets.Run)


def say(panel: Panel, do: str, **content: Any) -> None:
    """What the page sends."""
    panel._receive(panel, {"do": do, "view": "v", "number": 1, **content}, None)


def test_importing_snapkit_loads_no_widgets() -> None:
    code = "import snapkit, sys; print([m for m in ('ipywidgets', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", PANELS)
def test_each_panel_stands_alone_and_has_a_stable_name(kind: type[Panel]) -> None:
    panel = kind()
    panel.wait()
    assert repr(panel) == repr(kind())
    assert " at 0x" not in repr(panel)
    assert repr(panel).startswith(f"<{kind.__name__}: ")
    assert "\n" not in repr(panel)


@pytest.mark.parametrize("kind", [*PANELS, Studio])
def test_an_unknown_keyword_is_refused_by_name(kind: type) -> None:
    with pytest.raises(TypeError, match="'endpont'"):
        kind(endpont="/run/a.sock")


@pytest.mark.parametrize("kind", [*PANELS, Studio])
def test_what_is_no_vm_is_refused_by_type(kind: type) -> None:
    with pytest.raises(TypeError, match=r"takes what snapkit\.connect\(\) returns, not str"):
        kind("unix:/run/a.sock")


def test_an_error_in_a_callback_is_shown_logged_and_raised_under_test(
    caplog: pytest.LogCaptureFixture,
) -> None:
    panel = Devices()

    with pytest.raises(KeyError):
        say(panel, "no such thing")

    assert panel.error == "KeyError: 'no such thing'"
    assert "no such thing" in caplog.text
    assert panel.seen == {"v": 1}


@pytest.mark.parametrize("content", [None, [], "press", {}, {"do": ["press"]}])
def test_a_message_that_makes_no_sense_is_an_error_in_the_panel(
    lenient: None, content: object
) -> None:
    panel = Run()
    panel._receive(panel, content, None)
    assert panel.error


def test_for_a_user_an_error_is_shown_and_the_kernel_goes_on(lenient: None) -> None:
    panel = Devices()
    say(panel, "no such thing")
    assert panel.error

    say(panel, "refresh")
    panel.wait()
    assert panel.error == ""


def test_an_error_while_drawing_is_shown(lenient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Targets()

    def broken() -> dict[str, Any]:
        raise RuntimeError("cannot draw")

    monkeypatch.setattr(panel, "state", broken)
    panel.session.tell("targets")

    assert panel.error == "RuntimeError: cannot draw"


def test_the_error_of_work_that_was_begun_is_shown(lenient: None) -> None:
    panel = Connect()

    say(panel, "press", endpoint="/nowhere/vm.sock", domain="", connected=False)
    panel.wait()

    assert "/nowhere/vm.sock" in panel.error
    assert not panel.busy
    assert panel.status == "Not connected."


def test_under_test_wait_raises_it() -> None:
    panel = Connect()
    panel.press("/nowhere/vm.sock")

    with pytest.raises(ConnectError, match=r"/nowhere/vm\.sock"):
        panel.wait()


def test_the_answers_to_many_views_are_bounded() -> None:
    panel = Devices()
    for number in range(100):
        panel._receive(panel, {"do": "refresh", "view": f"v{number}", "number": 1}, None)
    panel.wait()

    assert len(panel.seen) < 20
    assert panel.seen["v99"] == 1


def test_a_closed_panel_is_told_no_more() -> None:
    panel = Run()
    panel.close()

    panel.session.tell("run")

    assert panel.comm is None


def test_panels_of_one_session_share_it() -> None:
    session = Session()
    assert Devices(session).session is Targets(session).session


def test_a_module_is_one_file_without_imports() -> None:
    for name in ("connect", "devices", "targets", "review", "run"):
        module = esm(f"{name}.js")
        assert "import " not in [line[:7] for line in module.splitlines()]
        assert module.count("export ") == 1


def test_a_module_that_imports_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not begin by importing"):
        esm("style.css")


def test_all_modules_together_are_small() -> None:
    modules = Path(snapkit.widgets.__file__).parent.glob("*.js")
    assert sum(path.stat().st_size for path in modules) < 60_000


def test_the_page_chooses_the_thread_where_the_kernel_lets_it() -> None:
    class Comm:
        def _reply_subshell_for(self, data: object, default: str) -> str | None:
            return None

    comm = Comm()
    _answer_beside_cells(comm)
    assert comm._reply_subshell_for({}, "subshell") == "subshell"

    _answer_beside_cells(object())  # a kernel without subshells
