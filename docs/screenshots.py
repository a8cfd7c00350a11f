"""The pictures of a run's page in README: `python docs/screenshots.py RUN`, light and dark, in a headless Chromium.

The run is one that a person looked at, measured on a quiet machine; the pictures are committed.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parent / "img"


def main(run: Path) -> int:
    """Write `docs/img/report-light.png` and `report-dark.png`."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1000, "height": 940})
            page.goto((run / "report.html").resolve().as_uri())
            page.screenshot(path=IMAGES / f"report-{scheme}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
