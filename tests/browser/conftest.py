"""A real JupyterLab of its own, and pages that show a notebook in it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium, watched_page
from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0


class JupyterLab:
    """A JupyterLab server with nothing of the user's: settings, kernels, history, home."""

    def __init__(self, home: Path) -> None:
        self.work = home / "work"
        self.work.mkdir()
        self.token = secrets.token_hex(16)
        self.log = home / "server.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._no_news(home / "settings")
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.port={self.port}"),
            *("--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"),
            f"--ServerApp.root_dir={self.work}",
            *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
            *(["--allow-root"] if os.geteuid() == 0 else []),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.work,
                env=self._environment(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._is_up, "JupyterLab answers", START_SECONDS)

    def _environment(self, home: Path) -> dict[str, str]:
        mine = {
            "HOME": home,
            "JUPYTER_CONFIG_DIR": home / "config",
            "JUPYTER_DATA_DIR": home / "data",
            "JUPYTER_RUNTIME_DIR": home / "runtime",
            "JUPYTERLAB_SETTINGS_DIR": home / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
            "IPYTHONDIR": home / "ipython",
            "JUPYTER_TOKEN": self.token,
            "PYTHONPATH": ROOT,
        }
        return {**os.environ, **{name: str(value) for name, value in mine.items()}}

    @staticmethod
    def _no_news(settings: Path) -> None:
        """No toast that asks about news: it would cover a corner of the page."""
        folder = settings / "@jupyterlab/apputils-extension"
        folder.mkdir(parents=True)
        file = folder / "notification.jupyterlab-settings"
        file.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"JupyterLab ended: {self.log.read_text(errors='replace')}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells; returns its address."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.work / name)
        return f"http://127.0.0.1:{self.port}/lab/tree/{name}?token={self.token}&reset"

    def stop(self) -> None:
        """End the server, which ends its kernels, and with them their labs."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def jupyterlab() -> Iterator[JupyterLab]:
    home = Path(tempfile.mkdtemp(prefix="snapkit-test-"))
    server = JupyterLab(home)
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module: while one runs, this thread cannot run an event loop."""
    with chromium() as browser:
        yield browser


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        page.goto(address)
        page.locator(".jp-NotebookPanel").wait_for()
        page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
        page.wait_for_function(
            "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'"
        )

    @property
    def cells(self) -> int:
        """How many cells there are."""
        count: int = self.page.evaluate(
            "() => jupyterapp.shell.currentWidget.content.widgets.length"
        )
        return count

    def run(self, cell: int) -> None:
        """Start a cell; returns when it has been sent, not when it has ended."""
        self.page.evaluate(
            """async (cell) => {
              jupyterapp.shell.currentWidget.content.activeCellIndex = cell;
              jupyterapp.commands.execute('notebook:run-cell');
            }""",
            cell,
        )

    def wait_idle(self, cell: int) -> None:
        """Wait until a cell has an execution count: it has ended."""
        self.page.wait_for_function(
            "(cell) => jupyterapp.shell.currentWidget.content.widgets[cell].model.executionCount",
            arg=cell,
        )

    def output(self, cell: int) -> str:
        """What a cell has printed."""
        text: str = self.page.evaluate(
            """(cell) => jupyterapp.shell.currentWidget.content.widgets[cell].model.outputs
              .toJSON().map((output) => [].concat(output.text ?? []).join('')).join('')""",
            cell,
        )
        return text


OpenNotebook = Callable[..., Notebook]


@pytest.fixture
def open_notebook(jupyterlab: JupyterLab, browser: Browser) -> Iterator[OpenNotebook]:
    """Opens a notebook with the given code cells; its kernel is ended afterwards."""
    with watched_page(browser) as page:

        def open_(*cells: str) -> Notebook:
            name = f"{secrets.token_hex(4)}.ipynb"
            return Notebook(page, jupyterlab.write(name, *cells))

        yield open_
        page.evaluate("() => window.jupyterapp?.shell.currentWidget?.sessionContext.shutdown()")
