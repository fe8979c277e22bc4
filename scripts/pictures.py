"""Takes the README's pictures anew: the Studio after a snapshot, light and dark, in docs/.

usage: .venv/bin/python scripts/pictures.py     (after make test has set up the browser)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.chromium import chromium, watched_page  # noqa: E402  found by the line above
from tests.browser.conftest import JupyterLab, Notebook  # noqa: E402  the same

START = "import snapkit\nlab = snapkit.Lab()\nvm = lab.connect()"
STUDIO = "snapkit.Studio(vm)"
MILLISECONDS = 60_000


def take(server: JupyterLab, browser: Browser, theme: str) -> None:
    """One picture of the whole Studio, in JupyterLab's theme of that name."""
    with watched_page(browser, {"width": 1240, "height": 2000}) as page:
        notebook = Notebook(page, server.write(f"{theme}.ipynb", START, STUDIO))
        page.evaluate(
            "(theme) => jupyterapp.commands.execute('apputils:change-theme', {theme})",
            f"JupyterLab {theme.title()}",
        )
        notebook.run(0)
        notebook.wait_idle(0)
        notebook.run(1)
        button = page.get_by_role("button", name="Snapshot 2 disks")
        button.click(timeout=MILLISECONDS)
        outcome = page.get_by_role("status", name="Outcome")
        expect(outcome).to_contain_text("ok", timeout=MILLISECONDS)
        page.mouse.move(0, 0)
        picture = ROOT / "docs" / f"studio-{theme}.png"
        page.locator(".jp-OutputArea-output").last.screenshot(path=picture, animations="disabled")
        page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def main() -> None:
    """Take both."""
    home = Path(tempfile.mkdtemp(prefix="snapkit-pictures-"))
    server = JupyterLab(home)
    try:
        with chromium() as browser:
            for theme in ("light", "dark"):
                take(server, browser, theme)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
