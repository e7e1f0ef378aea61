"""Take the README's picture of a report: python docs/picture.py demo-study/report/index.html."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """Write docs/report.png, the report on a wide screen down to the end of its verdict."""
    report = Path(sys.argv[1]).resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(report.as_uri())
        end = page.evaluate("document.querySelector('.decision').getBoundingClientRect().bottom")
        page.screenshot(
            path=str(Path(__file__).with_name("report.png")),
            full_page=True,
            clip={"x": 0, "y": 0, "width": 1200, "height": end + 24},
        )
        browser.close()


if __name__ == "__main__":
    main()
