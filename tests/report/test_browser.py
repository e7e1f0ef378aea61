"""The report in a real browser: every width, both schemes, paper, and its files alone."""

import pytest

from ecg_llm import config
from ecg_llm.report import exports, report
from ecg_llm.stats.estimate import estimates

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error:
            pytest.skip(f"needs {CHROMIUM}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory, html):
    made = tmp_path_factory.mktemp("report") / "index.html"
    made.write_text(html, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, study, tables):
    """The report of 13 arms whose names have 40 characters."""
    arms = list(study.arms)
    names = [f"{arms[i % 6]}-{i:02}".ljust(40, "x") for i in range(13)]
    copies = {
        table: [
            row.model_copy(update={"arm": name})
            for i, name in enumerate(names)
            for row in tables[table]
            if row.arm == arms[i % 6]
        ]
        for table in ("answers", "scores")
    }
    kept = [q for q in tables["questions"] if q.status == "kept"]
    subsets_of = {q.question_id: q.subsets for q in kept}
    cluster_of = {q.question_id: q.group for q in kept}
    rows = estimates(copies["scores"], subsets_of, cluster_of, (), 1000, 5)
    raw = study.model_dump(mode="json", exclude_defaults=True)
    raw["arms"] = {name: raw["arms"][arms[i % 6]] for i, name in enumerate(names)}
    many = config.parse(raw)
    made = tmp_path_factory.mktemp("crowd") / "index.html"
    made.write_text(
        report.build(many, {**tables, **copies, "estimates": rows, "standings": []}, {}), "utf-8"
    )
    return made


OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"
WIDER = """[...document.querySelectorAll('main *')].filter(e => {
  const box = e.closest('.table, pre, figure:has(> .wide), svg');
  const own = e.getBoundingClientRect();
  return !box && own.width > 0 && own.right > document.documentElement.clientWidth + 1;
}).map(e => e.outerHTML.slice(0, 120))"""
"""What stands out of the screen, apart from what scrolls in its own box."""
A4 = 688
"""Pixels between the margins of the paper."""
CUT = """[...document.querySelectorAll('main table, main svg, main p, main dl')].filter(e =>
  e.checkVisibility() && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map(e => e.outerHTML.slice(0, 200))"""
"""What paper cuts off, since nothing scrolls there."""
SMALL = """[...document.querySelectorAll('figure svg text')].map(e => {
  const svg = e.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent];
}).filter(([size]) => size < 8.5)"""
"""Writing in figures that a phone shows too small to read."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 420, 800, 1200])
def test_the_report_fits_every_screen_and_asks_for_nothing(chromium, path, width, scheme):
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, said = [], []

    def refuse(route):
        asked.append(route.request.url)
        if route.request.url == path.as_uri():
            route.continue_()
        else:
            route.abort()

    page.route("**/*", refuse)
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDER) == []
    if width >= 420:
        assert page.evaluate(SMALL) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.close()
    assert asked == [path.as_uri()]
    assert said == []
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")


@pytest.mark.parametrize("width", [320, 420, 800, 1200])
def test_thirteen_arms_with_long_names_fit_too(chromium, crowd, width):
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(crowd.as_uri())
    page.evaluate(OPEN)
    wide = page.evaluate("document.documentElement.scrollWidth")
    outside = page.evaluate(WIDER)
    page.close()
    assert wide <= width
    assert outside == []


def test_the_contents_lead_to_every_section(chromium, path):
    page = chromium.new_page()
    page.goto(path.as_uri())
    links = page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))")
    heads = page.eval_on_selector_all("main h2", "all => all.map(h => '#' + h.id)")
    page.close()
    assert links == heads


def test_writing_stands_out_from_its_ground_in_both_schemes(chromium, path):
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        ratios = page.evaluate(
            """() => {
              const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(Number).map(
                x => (x /= 255) <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
              const paper = light(getComputedStyle(document.body).backgroundColor);
              return [...document.querySelectorAll('p, td, th, dt, dd, li, a, summary, h2, h3')]
                .filter(e => !e.closest('.notice')).map(e => {
                  const ink = light(getComputedStyle(e).color);
                  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
                });
            }"""
        )
        page.close()
        assert min(ratios) >= 4.5


def test_on_paper_nothing_is_cut_off_and_what_is_unfolded_is_printed(chromium, path):
    import pypdfium2

    page = chromium.new_page(viewport={"width": A4, "height": 1000})
    page.goto(path.as_uri())
    page.emulate_media(media="print")

    def printed():
        document = pypdfium2.PdfDocument(page.pdf(format="A4", prefer_css_page_size=True))
        text = "\n".join(sheet.get_textpage().get_text_range() for sheet in document)
        sizes = [sheet.get_size() for sheet in document]
        document.close()
        assert all(size == pytest.approx((595, 842), abs=1.5) for size in sizes)
        return text, len(sizes)

    folded, few = printed()
    page.evaluate(OPEN)
    assert page.evaluate(CUT) == []
    text, many = printed()
    page.close()
    assert "wrong by" not in folded
    assert "wrong by" in text
    assert few < many


def test_figures_show_the_same_without_the_page(chromium, html, tmp_path):
    made = exports.files(html)
    for name in [name for name in made if name.endswith(".svg")]:
        path = tmp_path / "figure.svg"
        path.write_text(made[name], encoding="utf-8")
        page = chromium.new_page(color_scheme="dark")
        page.goto(path.as_uri())
        drawn = page.evaluate("document.querySelectorAll('path, rect, text').length")
        inks = page.eval_on_selector_all("text", "all => all.map(e => getComputedStyle(e).fill)")
        page.close()
        assert drawn > 5
        # Black is what a colour that no viewer knows would become.
        assert "rgb(0, 0, 0)" not in inks
