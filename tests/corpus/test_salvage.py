"""Damaged PDFs: every page whose bytes survive comes back with its text, and none is made up."""

import re
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import pikepdf
import pypdfium2
import pytest
from corpus import hostile
from reportlab.pdfgen.canvas import Canvas
from support import HANDBOOK

from ecg_llm.corpus import salvage as module
from ecg_llm.corpus.salvage import Salvaged, expected_pages, salvage

CHAPTERS = sorted(HANDBOOK.glob("*.pdf"))
LINE = "The first definition of atrial flutter fits page"


def texts(path: Path) -> list[str]:
    """Return the text of every page, without spaces."""
    with closing(pypdfium2.PdfDocument(path)) as document:
        pages = [
            document[index].get_textpage().get_text_bounded() for index in range(len(document))
        ]
    return [re.sub(r"\s+", "", page) for page in pages]


@cache
def undamaged(path: Path) -> list[str]:
    return texts(path)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[Salvaged | None, list[str]]]:
    """Return a function that salvages a file, or its bytes: (what it says, texts of the pages)."""

    def run(source: Path | bytes, password: str = "") -> tuple[Salvaged | None, list[str]]:
        path, target = tmp_path / "damaged.pdf", tmp_path / "saved.pdf"
        path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
        target.unlink(missing_ok=True)
        saved = salvage(path, target, password)
        if saved is None:
            assert not target.exists()
            return None, []
        pages = texts(target)
        with pikepdf.open(target) as document:
            assert len(document.pages) == len(pages) == saved.pages
            assert not document.is_encrypted
        assert all(not pages[number - 1] for number in saved.lost)
        assert saved.whole <= saved.found <= saved.pages
        return saved, pages

    return run


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    """Return a PDF of four pages, uncompressed."""
    path = tmp_path / "plain.pdf"
    canvas = Canvas(str(path), pageCompression=0)
    for page in range(1, 5):
        for line in range(10):
            canvas.drawString(72, 700 - 14 * line, f"{LINE} {page}, line {line}.")
        canvas.showPage()
    canvas.save()
    return path.read_bytes()


def stored(data: bytes, folder: Path, **options: object) -> bytes:
    """Return the PDF as pikepdf saves it with these options."""
    source, target = folder / "source.pdf", folder / "stored.pdf"
    source.write_bytes(data)
    with pikepdf.open(source) as document:
        document.save(target, **options)
    return target.read_bytes()


def lies(page: int, pages: list[str]) -> bool:
    """Tell whether the text of the plain PDF's page is there, in its place."""
    return all(f"page{page},line{line}." in pages[page - 1] for line in range(10))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "last 200 bytes": lambda data: data[:-200],
    "offsets": lambda data: re.sub(rb"\d{10} (\d{5}) n", rb"0000000007 \1 n", data),
    "startxref": lambda data: re.sub(rb"startxref\s+\d+", b"startxref\n3", data),
    "trailer": lambda data: data.replace(b"trailer", b"tra iler").replace(b"startxref", b"start"),
    "page tree": lambda data: re.sub(rb"/Type\s*/Pages[^>]*", b"", data),
    "type of the tree": lambda data: re.sub(rb"/Type\s*/Pages", b"/Type /Nodes", data),
    "catalog": lambda data: re.sub(rb"/Type\s*/Catalog[^>]*", b"", data),
    "header": lambda data: b"%PDX" + data[4:],
    "bytes before": lambda data: bytes(range(256)) * 9 + data,
    "bytes after": lambda data: data + bytes(range(256)) * 9,
    "line ends lost": lambda data: data.replace(b"endobj\n", b"endobj "),
    "ends of objects": lambda data: data.replace(b"endobj", b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_page_survives_a_lost_structure(
    damage: str, save: Callable[..., tuple[Salvaged, list[str]]]
) -> None:
    for chapter in CHAPTERS[:3]:
        data = DAMAGE[damage](chapter.read_bytes())
        saved, pages = save(data)
        assert saved.whole == saved.pages == len(undamaged(chapter))
        assert pages == undamaged(chapter)


@pytest.mark.parametrize(
    "options",
    [
        {"object_stream_mode": pikepdf.ObjectStreamMode.generate},
        {"linearize": True, "object_stream_mode": pikepdf.ObjectStreamMode.generate},
        {"linearize": True},
        {"encryption": pikepdf.Encryption(owner="o", user="", R=4)},
        {"encryption": pikepdf.Encryption(owner="o", user="")},
    ],
    ids=["object streams", "linearised object streams", "linearised", "AES-128", "AES-256"],
)
@pytest.mark.parametrize("damage", ["offsets", "startxref", "last 200 bytes", "bytes before"])
def test_every_page_survives_in_every_kind_of_file(
    options: dict[str, object],
    damage: str,
    plain: bytes,
    tmp_path: Path,
    save: Callable[..., tuple[Salvaged | None, list[str]]],
) -> None:
    options = {"object_stream_mode": pikepdf.ObjectStreamMode.disable, **options}
    data = stored(plain, tmp_path, **options)
    saved, pages = save(DAMAGE[damage](data))
    if "encryption" in options and damage == "last 200 bytes":
        assert saved is None, "the trailer holds half of the key"
        return
    assert saved is not None
    assert saved.whole == saved.pages == 4
    assert all(lies(page, pages) for page in range(1, 5))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.8, 0.9, 0.97])
def test_a_cut_file_gives_every_page_whose_text_is_there(
    share: float, save: Callable[..., tuple[Salvaged | None, list[str]]]
) -> None:
    for chapter in CHAPTERS[:4]:
        data = chapter.read_bytes()
        left = data[: int(len(data) * share)]
        with pikepdf.open(chapter) as document:
            contents = [page.Contents.read_raw_bytes() for page in document.pages]
        alive = [content in left for content in contents]
        begun = [content[:20] in left for content in contents]
        saved, pages = save(left)
        assert expected_pages(left) == len(contents)
        if not any(begun):
            assert saved is None
            continue
        assert saved is not None
        assert saved.pages == len(contents)
        assert saved.lost == tuple(n for n, is_there in enumerate(begun, 1) if not is_there)
        assert saved.cut == tuple(
            n for n, (is_begun, is_whole) in enumerate(zip(begun, alive, strict=True), 1)
            if is_begun and not is_whole
        )  # fmt: skip
        for page, truth, is_whole in zip(pages, undamaged(chapter), alive, strict=True):
            assert page == truth if is_whole else len(page) < len(truth)


def test_a_cut_anywhere_is_no_error(plain: bytes, save: Callable[..., object]) -> None:
    for length in range(9, len(plain), 97):
        save(plain[:length])


def test_contents_whose_pages_are_lost_become_pages(
    plain: bytes, save: Callable[..., tuple[Salvaged, list[str]]]
) -> None:
    # the contents alone, as of a file whose pages come behind them
    contents = b"".join(re.findall(rb"\d+ 0 obj\s<<\s/Length.*?endobj\s", plain, re.DOTALL))
    saved, pages = save(b"%PDF-1.4\n" + contents)
    assert saved == Salvaged(4, False, (), (), (1, 2, 3, 4))
    assert all(lies(page, pages) for page in range(1, 5))


def test_a_lost_page_keeps_the_numbers_of_the_others(
    plain: bytes, save: Callable[..., tuple[Salvaged, list[str]]]
) -> None:
    starts = [match.start() for match in re.finditer(rb"\d+ 0 obj\s<<\s/Contents", plain)]
    second = plain[starts[1] : plain.index(b"endobj", starts[1]) + 6]
    content = int(re.search(rb"/Contents (\d+)", second)[1])  # type: ignore[index]
    without = plain.replace(second, b"")
    saved, pages = save(without)
    assert saved == Salvaged(4, True, (), (), (2,)), "its content is taken for the page"
    assert all(lies(page, pages) for page in range(1, 5))
    start = without.index(b"\n%d 0 obj" % content)
    without = without[:start] + without[without.index(b"endobj", start) + 6 :]
    saved, pages = save(without)
    assert saved == Salvaged(4, True, (2,), (), ())
    assert [lies(page, pages) for page in range(1, 5)] == [True, False, True, True]
    assert expected_pages(without) == 4


def test_a_lost_branch_of_the_tree_is_put_back(
    save: Callable[..., tuple[Salvaged, list[str]]], tmp_path: Path
) -> None:
    path = hostile.deep_tree(tmp_path / "deep.pdf", depth=3)
    data = path.read_bytes().replace(b"7 0 obj", b"7 0 xxx")
    saved, pages = save(data)
    assert saved == Salvaged(1, True, (), (), ())
    assert "Pwave" in pages[0]


def test_the_last_definition_of_an_object_wins(
    plain: bytes, save: Callable[..., tuple[Salvaged, list[str]]]
) -> None:
    found = re.search(rb"(\d+ 0 obj)(\s<<[^>]*/Length )\d+.*?endobj", plain, re.DOTALL)
    assert found
    text = b"BT /F1 12 Tf 72 700 Td (A newer page.) Tj ET"
    newer = b"%b\n<< /Length %d >>\nstream\n%b\nendstream\nendobj\n" % (found[1], len(text), text)
    saved, pages = save(plain.replace(b"startxref", b"start") + newer)
    assert saved.whole == 4
    assert "Anewerpage." in pages[0]
    # but a cut one does not
    saved, pages = save(plain.replace(b"startxref", b"start") + newer[:-30])
    assert saved.whole == 4
    assert lies(1, pages)


def test_lines_may_end_as_on_old_computers(
    plain: bytes, save: Callable[..., tuple[Salvaged, list[str]]]
) -> None:
    saved, pages = save(plain.replace(b"\r\n", b"\n").replace(b"\n", b"\r"))
    assert saved.whole == saved.pages == 4
    assert all(lies(page, pages) for page in range(1, 5))


def test_lost_fonts_leave_readable_but_doubtful_text(
    save: Callable[..., tuple[Salvaged, list[str]]], tmp_path: Path
) -> None:
    # TeX writes fi as one code; its font, at the end of the file, is cut off
    data = hostile.behind_garbage(hostile.xref_loop(tmp_path / "a.pdf"), 1).read_bytes()
    data = re.sub(rb"\(The P wave", rb"(De\\014nite P wave", data).replace(b"/Length 82", b"")
    saved, pages = save(data.replace(b"/Font <<", b"/Lost <<"))
    assert saved == Salvaged(1, True, (), (), (1,))
    assert "DefinitePwave" in pages[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: hostile.object_stream_bomb(path, 1),
        hostile.huge_page,
        hostile.cyclic_tree,
        hostile.deep_tree,
        hostile.xref_loop,
        hostile.count_lie,
        hostile.extends_cycle,
        hostile.invalid_title,
    ],
)
def test_hostile_files_cost_little_and_give_their_page(
    make: Callable[[Path], Path], tmp_path: Path, save: Callable[..., tuple[Salvaged, list[str]]]
) -> None:
    data = make(tmp_path / "hostile.pdf").read_bytes()
    for damaged in (data, data[:-12]):
        saved, pages = save(damaged)
        assert saved.pages == saved.whole == 1
        assert hostile.VISIBLE.replace(" ", "") in pages[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: hostile.decompression_bomb(path, 1),
        lambda path: hostile.decompression_bomb(path, 1, twice=True),
        hostile.form_recursion,
    ],
)
def test_what_explodes_when_it_is_drawn_is_passed_on_unopened(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path, target = make(tmp_path / "bomb.pdf"), tmp_path / "saved.pdf"
    assert salvage(path, target) == Salvaged(1, True, (), (), ())
    assert target.stat().st_size < path.stat().st_size + 1000


def test_long_repetitions_cost_little(save: Callable[..., object]) -> None:
    for part in (
        b"1 0 obj<<",
        b"1 0 obj<</Length 5>>stream\n",
        b"1         0         ob",
        b"/Kids [ ",
        b"1 0 ",
    ):
        save(b"%PDF-1.4\n" + part * 20_000)
    endless = b"".join(b"%d 0 obj<</Length 5>>stream\n" % number for number in range(20_000))
    save(b"%PDF-1.4\n" + endless)
    pages = b"".join(b"%d 0 obj<</Type/Page>>endobj\n" % number for number in range(50_000))
    assert expected_pages(pages) == 0


@pytest.mark.parametrize(
    "make",
    [hostile.html_named_pdf, hostile.jpeg_named_pdf, hostile.zero_bytes, hostile.random_bytes],
)
def test_what_holds_no_page_gives_none(
    make: Callable[[Path], Path], tmp_path: Path, save: Callable[..., tuple[None, list[str]]]
) -> None:
    path = make(tmp_path / "a.pdf")
    assert save(path) == (None, [])
    assert expected_pages(path.read_bytes()) == 0


def test_a_password_opens_a_damaged_file(
    plain: bytes, tmp_path: Path, save: Callable[..., tuple[Salvaged | None, list[str]]]
) -> None:
    path = tmp_path / "open.pdf"
    path.write_bytes(plain)
    for encrypt in (hostile.encrypted_user, hostile.encrypted_aes256):
        data = encrypt(path).read_bytes().replace(b"startxref", b"start")
        assert save(data) == (None, [])
        saved, pages = save(data, hostile.PASSWORD)
        assert saved is not None
        assert saved.whole == 4
        assert all(lies(page, pages) for page in range(1, 5))


def test_a_file_too_large_is_left_alone(
    plain: bytes, monkeypatch: pytest.MonkeyPatch, save: Callable[..., tuple[None, list[str]]]
) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 1000)
    assert save(plain) == (None, [])


def test_no_page_is_called_whole_whose_text_is_not(
    tmp_path: Path, save: Callable[..., tuple[Salvaged | None, list[str]]]
) -> None:
    chapter = CHAPTERS[1]
    path = tmp_path / chapter.name
    path.write_bytes(chapter.read_bytes())
    whole = 0
    for seed in range(60):
        saved, pages = save(hostile.fuzz(path, seed, 1 + seed // 2))
        for number, page in enumerate(pages, start=1):
            if saved and number not in (*saved.lost, *saved.cut, *saved.doubtful):
                assert page in undamaged(chapter)
                whole += 1
    assert whole


def test_expected_pages_are_those_of_undamaged_files() -> None:
    for chapter in CHAPTERS:
        assert expected_pages(chapter.read_bytes()) == len(undamaged(chapter))


def test_liteparse_reads_what_was_saved(tmp_path: Path) -> None:
    from ecg_llm.corpus.pdf import LiteparseEngine

    path, target = tmp_path / CHAPTERS[0].name, tmp_path / "saved.pdf"
    path.write_bytes(CHAPTERS[0].read_bytes())
    assert salvage(hostile.cut(path, 0.85), target) == Salvaged(2, True, (), (2,), ())
    first, second = LiteparseEngine().read(target).pages
    assert "normal electrocardiogram" in first.markdown
    assert "QRS complex" in second.markdown
