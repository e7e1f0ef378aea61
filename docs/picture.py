"""Take the README's picture of a report: python docs/picture.py demo-study/report/index.html."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """Write docs/report.png, the top of the report as a wide screen shows it."""
    report = Path(sys.argv[1]).resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.goto(report.as_uri())
        page.screenshot(path=str(Path(__file__).with_name("report.png")))
        browser.close()


if __name__ == "__main__":
    main()
