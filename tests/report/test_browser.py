import pytest

from ecg_llm.report import report

CHROMIUM = "/usr/bin/chromium"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (400, "dark"), (1200, "light")])
def test_the_report_fits_every_screen_and_asks_for_nothing(tmp_path, study, tables, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "index.html"
    path.write_text(report.build(study, tables, {}), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error:
            pytest.skip(f"needs {CHROMIUM}")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: seen.append(message.text))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert seen == [path.as_uri()]
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")
