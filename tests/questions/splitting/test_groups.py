"""Documents that share text, or a name, are one group; exactly so, and in any order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SHARED

from ecg_llm.questions.splitting.groups import FEWEST, LENGTH, groups_of
from ecg_llm.questions.splitting.shingles import Vocabulary, runs
from ecg_llm.records import Document
from ecg_llm.testing import passage
from ecg_llm.words import words_of


def document(name, group="", status="ok"):
    return Document(path=f"{name}.pdf", doc_id=name, group=group or name, status=status)


def words(seed, count):
    """Words that no other seed has."""
    return [f"w{seed}x{n}" for n in range(count)]


def cut(name, text, size=40):
    """A document's words as passages."""
    made, at = [], 0
    for start in range(0, len(text), size):
        piece = " ".join(text[start : start + size])
        made.append(passage(piece, doc_id=name, start=at))
        at += len(piece) + 1
    return made


def grouped(texts, related=0.2, groups=None, documents=()):
    rows = [document(name, (groups or {}).get(name, "")) for name in texts]
    passages = [row for name, text in texts.items() for row in cut(name, text)]
    return groups_of([*rows, *documents], passages, related)


def test_a_chapter_is_found_in_the_book_that_holds_it_whatever_the_jaccard():
    book = words(1, 4000)
    texts = {"book": book, "chapter": [*words(2, 20), *book[900:1200]], "other": words(3, 300)}
    found = grouped(texts)
    assert found["book"] == found["chapter"] != found["other"]
    assert len(set(grouped(texts, related=1).values())) == 3


def test_the_share_is_of_the_shorter_document_and_counted_exactly():
    book = words(1, 3000)
    for common, together in ((106, False), (107, True)):  # 99 and 100 shingles of 500
        shorter = [*book[:common], *words(2, 507 - common)]
        assert (len(set(grouped({"a": book, "b": shorter}).values())) == 1) == together


def test_groups_reach_through_documents_between_and_do_not_depend_on_the_order():
    long = words(1, 900)
    texts = {"a": long[:300], "b": long[200:500], "c": long[400:700], "d": words(2, 300)}
    found = grouped(texts)
    assert found["a"] == found["b"] == found["c"] != found["d"]
    assert grouped(dict(reversed(texts.items()))) == found
    rows = [document(name) for name in texts]
    passages = [row for name, text in texts.items() for row in cut(name, text)]
    random.Random(1).shuffle(passages)
    assert groups_of(rows[::-1], passages, 0.2) == found


def test_a_name_that_a_person_gave_joins_documents_and_is_the_groups_name():
    long = words(1, 300)
    texts = {"a": long, "b": long[:200], "c": words(2, 300), "d": words(3, 300)}
    found = grouped(texts, groups={"b": "atlas", "c": "atlas"})
    assert found == {"a": "atlas", "b": "atlas", "c": "atlas", "d": "d"}


def test_a_near_duplicate_without_passages_follows_the_document_it_repeats():
    texts = {"book": words(1, 300), "chapter": words(1, 300)[:150]}
    copy = document("a-copy", group="chapter", status="duplicate")
    assert len(set(grouped(texts, documents=[copy]).values())) == 1


def test_a_licence_notice_does_not_glue_short_abstracts_together():
    notice = words(0, 40)
    texts = {f"d{n}": [*words(n + 1, 90), *notice] for n in range(6)}
    texts["notice"] = notice
    assert len(set(grouped(texts).values())) == 7


def test_tiny_documents_are_one_group_only_where_they_say_just_the_same():
    tiny = words(1, 20)
    texts = {"a": tiny, "b": tiny, "c": tiny[:15], "d": words(2, 5), "e": words(2, 5), "f": []}
    found = grouped(texts)
    assert found["a"] == found["b"]
    assert found["d"] == found["e"]
    assert len(set(found.values())) == 4


def test_what_a_passage_repeats_of_the_one_before_is_no_text_of_its_own():
    text = " ".join(words(1, 400))
    whole = [passage(text, doc_id="a")]
    steps = range(0, len(text) - 800, 400)
    overlapping = [passage(text[at : at + 800], doc_id="b", start=at) for at in steps]
    rows = [document("a"), document("b")]
    assert len(set(groups_of(rows, [*whole, *overlapping], 0.99).values())) == 1


def test_a_hundred_copies_are_one_group():
    long = words(1, 2000)
    texts = {f"d{n:03d}": [*long[n:], *words(n + 2, 50)] for n in range(100)}
    assert set(grouped(texts).values()) == {"d000"}


def naive(texts, related):
    """Pairs by sets of word tuples."""
    sets = {}
    for name, text in texts.items():
        length = min(LENGTH, len(text))
        sets[name] = {
            tuple(text[i : i + length]) for i in range(len(text) - length + 1 if text else 0)
        }
    pairs = set()
    for one in sets:
        for other in sets:
            common, sizes = len(sets[one] & sets[other]), (len(sets[one]), len(sets[other]))
            enough = common >= FEWEST or common == max(sizes)
            if one < other and min(sizes) and common >= related * min(sizes) and enough:
                pairs.add((one, other))
    return pairs


pieces = st.tuples(st.integers(0, 3), st.integers(0, 250), st.integers(0, 120))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.lists(pieces, max_size=3), min_size=1, max_size=5))
def test_groups_are_those_of_a_plain_comparison_of_sets(recipes):
    sources = [words(n, 400) for n in range(4)]
    texts = {
        f"d{i}": [
            word for source, start, size in recipe for word in sources[source][start : start + size]
        ]
        for i, recipe in enumerate(recipes)
    }
    found = grouped(texts)
    joined = {name: {name} for name in texts}
    for one, other in naive(texts, 0.2):
        union = joined[one] | joined[other]
        joined |= dict.fromkeys(union, union)
    assert found == {name: min(joined[name]) for name in texts}


def test_runs_are_equal_exactly_where_the_words_are():
    vocabulary = Vocabulary()
    one = "The PR interval is 0.20 s or longer, and the QRS is narrow."
    other = "the pr INTERVAL is 0,20 s or longer and the qrs is broad"
    a, b = (runs(vocabulary.numbers(text), 4) for text in (one, other))
    assert len(words_of(one)) == len(words_of(other)) == 13
    assert (a == b).tolist() == [True] * 9 + [False]
    assert len(runs(vocabulary.numbers("three short words"), 4)) == 0


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")
def test_in_the_shared_literature_the_book_and_its_parts_are_one_group_and_nothing_else(tmp_path):
    from ecg_llm import config
    from ecg_llm.corpus import ingest
    from ecg_llm.corpus import passages as passages_of

    names = [
        "openstax_anatomy_book_300p.pdf", "openstax_heart_twocol.pdf", "openstax_m46664.md",
        "openstax_m46672.md", "openstax_m46676.md", "cinc_2018_CinC2018-049.pdf",
        "cinc_2018_CinC2018-245.pdf", "de_ekg_befundung_twocol.pdf",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).symlink_to(SHARED / "literature" / name)
    found = list(ingest.ingest(tmp_path, config.Documents(ocr="never"), {}))
    documents = {read.row.path: read.row for read in found}
    passages = [
        row
        for read in found
        if read.text
        for row in passages_of.cut(
            read.row, read.text, lambda texts: [len(t.split()) for t in texts], config.Passages()
        )
        if row.kind in config.Passages().kinds
    ]
    groups = groups_of(list(documents.values()), passages, config.Splits().related)
    of_path = {path: groups[row.doc_id] for path, row in documents.items()}
    assert len({of_path[name] for name in names if "openstax" in name}) == 1
    assert len(set(of_path.values())) == 4
