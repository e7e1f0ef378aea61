from collections import Counter

import pytest

from ecg_llm.config import Questions
from ecg_llm.contracts import Window
from ecg_llm.questions.writing.windows import plan, windows
from ecg_llm.testing import passage

TEXT = "First-degree AV block is defined as a PR interval longer than 200 ms."


def long(number, doc_id="a" * 16, tokens=100, **changes):
    made = passage(f"Passage {number}. " + TEXT, doc_id=doc_id, start=number * 1000)
    return made.model_copy(update={"tokens": tokens, **changes})


def passages_of(found):
    return [window.passages for window in found]


def test_windows_join_consecutive_passages_of_one_document_up_to_the_budget():
    members = [long(i) for i in range(5)] + [long(i, "b" * 16) for i in range(2)]
    found = windows(members[::-1], Questions(window=250), 1)
    assert [[p.start // 1000 for p in window] for window in passages_of(found)] == [
        [0, 1],
        [2, 3],
        [4],
        [0, 1],
    ]
    assert all(len({p.doc_id for p in window}) == 1 for window in passages_of(found))


def test_a_passage_larger_than_the_window_stands_alone():
    found = windows([long(0, tokens=900), long(1), long(2)], Questions(window=250), 1)
    assert [len(window) for window in passages_of(found)] == [1, 2]


def test_hidden_passages_are_never_in_a_window():
    found = windows([long(0), long(1, hidden=True), long(2)], Questions(window=1000), 1)
    assert [[p.start for p in window] for window in passages_of(found)] == [[0, 2000]]


def test_a_limit_takes_windows_from_every_document_and_depends_on_the_seed_alone():
    members = [long(i, doc * 16) for doc in "abcd" for i in range(40 if doc == "a" else 3)]
    settings = Questions(window=100, limit=8)
    found = windows(members, settings, 1)
    assert len(found) == 8
    assert {window[0].doc_id[0] for window in passages_of(found)} == set("abcd")
    assert found == windows(members[::-1], settings, 1)
    assert found != windows(members, settings, 2)


def slots(settings, members):
    return [
        slot for window in windows(members, settings, 1) for slot in plan(window, "open", settings)
    ]


def test_types_and_difficulties_come_equally_often_in_every_pair():
    settings = Questions(window=100, per_window=3)
    counts = Counter(s[1:] for s in slots(settings, [long(i) for i in range(70)]))
    assert len(counts) == 7 * 3
    assert set(counts.values()) == {10}


def test_the_end_of_a_long_document_is_asked_about_like_its_beginning():
    settings = Questions(window=400, per_window=4)
    members = [long(i) for i in range(200)] + [long(0, "b" * 16)]
    asked = Counter()
    for window in windows(members, settings, 1):
        for slot in plan(window, "choice", settings):
            asked[window.passages[slot.passage].passage_id] += 1
    assert [asked[p.passage_id] for p in members] == [1] * 201


def test_long_passages_get_more_questions_than_short_ones_and_a_whole_book_is_spread_over():
    settings = Questions(window=100_000, per_window=30)
    members = [long(i, tokens=3000 if i < 10 else 300) for i in range(20)]
    (window,) = windows(members, settings, 1)
    asked = Counter(slot.passage for slot in plan(window, "open", settings))
    assert sum(asked.values()) == round(30 * 33_000 / 100_000)
    (window,) = windows(members, settings.model_copy(update={"window": 33_000}), 1)
    asked = Counter(
        slot.passage
        for slot in plan(window, "open", settings.model_copy(update={"window": 33_000}))
    )
    assert all(asked[i] in (2, 3) for i in range(10))
    assert 2 <= sum(asked[i] for i in range(10, 20)) <= 4


def test_another_document_changes_no_plan_and_a_limit_neither():
    settings = Questions(window=200, per_window=3)
    members = [long(i) for i in range(12)]
    alone = {w: plan(w, "open", settings) for w in windows(members, settings, 1)}
    more = windows([*members, *(long(i, "0" * 16) for i in range(5))], settings, 1)
    assert {w: plan(w, "open", settings) for w in more if w.passages[0].doc_id == "a" * 16} == alone
    few = settings.model_copy(update={"limit": 2})
    for window in windows(members, few, 1):
        assert plan(window, "open", few) == alone[window]


def test_joined_windows_pair_distant_passages_about_the_same_thing():
    texts = [f"Filler number {i} on leads." for i in range(8)]
    texts[0], texts[7] = "Amiodarone prolongs the QT interval.", "Amiodarone may harm the thyroid."
    members = [
        passage(text, start=100 * i, section=f"s{i}").model_copy(update={"tokens": 100})
        for i, text in enumerate(texts)
    ]
    settings = Questions(writer="llm", window=400, joined=0.5)
    found = windows(members, settings, 1)
    assert [w.joined for w in found] == [False, False, True]
    assert [p.start for p in found[-1].passages] == [0, 700]
    assert len(plan(found[-1], "open", settings)) == settings.per_window
    assert windows(members[:3], settings, 1) == [Window(tuple(members[:3]))]


@pytest.mark.parametrize(("types", "levels"), [(1, 3), (6, 3), (7, 1), (4, 2)])
def test_every_pair_is_planned_whatever_the_numbers_of_types_and_levels(types, levels):
    full = Questions(window=100, per_window=1)
    settings = full.model_copy(
        update={"types": full.types[:types], "difficulties": full.difficulties[:levels]}
    )
    counts = Counter(s[1:] for s in slots(settings, [long(i) for i in range(types * levels)]))
    assert set(counts.values()) == {1}
    assert len(counts) == types * levels


def test_every_passage_is_asked_about_by_some_kind():
    settings = Questions()
    members = [long(i, tokens=230) for i in range(40)]
    asked = {
        window.passages[slot.passage].passage_id
        for window in windows(members, settings, 1)
        for kind in settings.kinds
        for slot in plan(window, kind, settings)
    }
    assert asked == {member.passage_id for member in members}
