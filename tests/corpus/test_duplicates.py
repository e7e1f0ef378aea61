"""Near duplicates: the fuller one stays, and both are one group."""

import random

import pytest

from ecg_llm.corpus.duplicates import alike, marked, sketch
from ecg_llm.records import Document

WORDS = [f"word{n}" for n in range(400)]


def text(seed: int, length: int = 600) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def document(path: str, characters: int, group: str = "") -> Document:
    quality: dict[str, int | float | str | tuple[int, ...]] = {
        "pages_read": 1, "characters": characters,
    }  # fmt: skip
    return Document(path=path, doc_id=path, group=group or path, status="ok", quality=quality)


def test_the_estimate_is_near_the_share_in_common() -> None:
    one = text(1)
    words = one.split()
    half = " ".join(words[:400]) + " " + text(2, 200)
    assert alike(sketch(one), sketch(one)) == 1
    assert alike(sketch(one), sketch(text(3))) < 0.05
    assert alike(sketch(one), sketch(half)) == pytest.approx(396 / 796, abs=0.12)


def test_sketches_are_the_same_in_every_process_and_short_texts_have_none() -> None:
    assert (
        sketch("the wave of the heart is broad")[:2]
        == sketch("The wave, of the heart is broad!")[:2]
    )
    assert sketch("too few words here") == ()


def test_of_near_duplicates_the_fuller_one_stays() -> None:
    whole = text(1)
    rows = [
        (document("a.pdf", 900), sketch(whole[:-40])), (document("b.pdf", 1000), sketch(whole)),
        (document("c.pdf", 800), sketch(text(2))),
    ]  # fmt: skip
    (a, b) = marked(rows, 0.8)
    assert (a.path, a.status, a.reason) == ("a.pdf", "duplicate", "near_duplicate")
    assert "b.pdf" in a.note
    assert (b.path, b.status, b.group) == ("b.pdf", "ok", "a.pdf")


def test_near_duplicates_bear_the_name_that_a_person_gave_and_others_stay_as_they_are() -> None:
    words = text(1).split()
    half = " ".join(words[:420]) + " " + text(2, 180)
    rows = [
        (document("a.pdf", 1000), sketch(" ".join(words))),
        (document("b.pdf", 900, "book"), sketch(" ".join(words[:-20]))),
        (document("c.pdf", 1000), sketch(half)),
        (document("d.pdf", 1000, "book"), sketch(text(10))),
    ]
    changed = {row.path: (row.group, row.status) for row in marked(rows, 0.9)}
    assert changed == {"a.pdf": ("book", "ok"), "b.pdf": ("book", "duplicate")}
    assert marked(rows, 1) == []
