"""The pictures of pages: `python docs/screenshots.py RUN`, in a headless Chromium.

The page of that run is in README, light and dark: a run that a person looked at, measured on a quiet machine. Those of
two stored runs of the tests are in the documentation. The pictures are committed.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parent / "img"
STORED = IMAGES.parents[1] / "tests" / "golden"


def main(run: Path) -> int:
    """Write the pictures into `docs/img`."""
    pictures = [(f"report-{scheme}", run, scheme, 940) for scheme in ("light", "dark")]
    pictures += [("compare", STORED / "compare", "light", 440), ("fix", STORED / "fix", "light", 760)]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, shown, scheme, height in pictures:
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1000, "height": height})
            page.goto((shown / "report.html").resolve().as_uri())
            page.screenshot(path=IMAGES / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
