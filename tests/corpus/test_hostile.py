"""Files made to hurt a reader: each ends as a row with a text or a reason, in time and memory."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus import hostile

from ecg_llm import config
from ecg_llm.corpus.ingest import Read, ingest
from ecg_llm.records import DOCUMENT_REASONS

HANDBOOK = Path(__file__).parents[2] / "src" / "ecg_llm" / "demo" / "handbook"
LIMIT = 30
BOMBS: dict[str, Callable[[Path], Path]] = {
    "bomb": hostile.decompression_bomb,
    "twice": lambda path: hostile.decompression_bomb(path, twice=True),
    "objects": hostile.object_stream_bomb,
    "forms": hostile.form_recursion,
}
MADE: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "cycle": (hostile.cyclic_tree, {"", "unread_pages"}),
    "deep": (hostile.deep_tree, {"", "blank", "corrupt"}),
    "loop": (hostile.xref_loop, {""}),
    "lie": (hostile.count_lie, {""}),
    "extends": (hostile.extends_cycle, {"", "corrupt"}),
    "huge": (hostile.huge_page, {""}),
    "title": (hostile.invalid_title, {""}),
    "many": (hostile.many_pages, {"blank"}),
    "words": (hostile.many_words, {""}),
    "html": (hostile.html_named_pdf, {""}),
    "jpeg": (hostile.jpeg_named_pdf, {"not_a_pdf"}),
    "zero": (hostile.zero_bytes, {"empty"}),
    "random": (hostile.random_bytes, {"corrupt", "truncated"}),
    "white": (hostile.white_text, {""}),
    "tiny": (hostile.tiny_text, {""}),
    "covered": (hostile.text_under_image, {""}),
}


def read(folder: Path, **settings: object) -> dict[str, Read]:
    given = {"workers": 2, "timeout": LIMIT, "ocr": "never", "near_duplicate": 1}
    found = {}
    for one in ingest(folder, config.Documents.model_validate(given | settings), {}):
        assert one.row.reason in DOCUMENT_REASONS
        assert bool(one.text) == (one.row.status in ("ok", "partial"))
        found[Path(one.row.path).stem] = one
    return found


def test_made_files_end_as_rows_with_the_right_reason(tmp_path: Path) -> None:
    for name, (make, _) in MADE.items():
        make(tmp_path / f"{name}.pdf")
    found = read(tmp_path)
    assert {
        name: one.row.reason for name, one in found.items() if one.row.reason not in MADE[name][1]
    } == {}
    assert set(found) == set(MADE)
    for name in ("white", "tiny", "covered"):
        (aside,) = found[name].row.set_aside
        assert aside.kind == "hidden"
    assert "HTML" in found["html"].row.note


@pytest.mark.slow
def test_bombs_end_in_a_reason_and_not_in_swap(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        make(tmp_path / f"{name}.pdf")
    found = read(tmp_path, memory_mb=1024)
    assert {one.row.reason for one in found.values()} <= {"memory", "crashed", "timeout", ""}
    assert set(found) == set(BOMBS)
    assert "memory" in {one.row.reason for one in found.values()}


def test_damaged_copies_of_a_chapter_give_its_text_back(tmp_path: Path) -> None:
    whole = shutil.copy(HANDBOOK / "03-av-block.pdf", tmp_path / "whole.pdf")
    hostile.short_of(whole, 200)
    hostile.behind_garbage(whole)
    found = read(tmp_path)
    text = found.pop("whole").text
    assert {one.row.status for one in found.values()} == {"ok"}
    for one in found.values():
        assert one.text == text
    assert "damaged" in found["whole-short"].row.note


def test_a_chapter_cut_in_half_says_what_is_lost(tmp_path: Path) -> None:
    whole = shutil.copy(HANDBOOK / "03-av-block.pdf", tmp_path / "whole.pdf")
    hostile.cut(whole, 0.5)
    one = read(tmp_path)["whole-cut"]
    assert one.row.status in ("partial", "unreadable")
    assert one.row.reason == "truncated"


@pytest.mark.slow
def test_fuzzed_chapters_never_stop_a_run(tmp_path: Path) -> None:
    for chapter in sorted(HANDBOOK.glob("0*.pdf")):
        copy = Path(shutil.copy(chapter, tmp_path / chapter.name))
        for seed in range(8):
            hostile.fuzz(copy, seed, 40).rename(tmp_path / f"{copy.stem}-{seed}.pdf")
        copy.unlink()
    found = read(tmp_path)
    assert len(found) == 8 * len(list(HANDBOOK.glob("0*.pdf")))
    assert all(one.text or one.row.reason for one in found.values())
