"""Documents are placed whole, by their tokens, in any order, and stay where they are."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_llm.config import Splits
from ecg_llm.contracts import UsageError
from ecg_llm.questions.splitting.placing import placements, shares
from ecg_llm.records import Document
from ecg_llm.testing import passage


def document(name, group="", **changes):
    made = {"path": f"books/{name}.pdf", "doc_id": name, "group": group or name, "status": "ok"}
    return Document(**(made | changes))


def text(name, tokens=100, words=()):
    """The one passage of a document: words of its own unless some are given."""
    said = words or [f"{name}w{n}" for n in range(12)]
    return passage(" ".join(said), doc_id=name).model_copy(update={"tokens": tokens})


def corpus(count=20, tokens=100):
    names = [f"d{i:02d}" for i in range(count)]
    return [document(name) for name in names], [text(name, tokens) for name in names]


def splits(rows):
    return {row.doc_id: row.split for row in rows}


def sizes(rows):
    counts = Counter()
    for row in rows:
        counts[row.split] += row.tokens
    return counts


def test_shares_of_tokens_are_met_with_whole_documents():
    documents, passages = corpus()
    rows = placements(documents, passages, Splits(), 1)
    assert sizes(rows) == {"train": 1600, "val": 200, "test": 200}
    assert [row.doc_id for row in rows] == [d.doc_id for d in documents]
    assert {row.why for row in rows} == {"drawn"}


@pytest.mark.parametrize("seed", range(5))
def test_unequal_documents_are_fitted_closely_and_by_chance(seed):
    names = [f"d{i:02d}" for i in range(40)]
    weights = [100 + 37 * (i % 11) for i in range(40)]
    documents = [document(name) for name in names]
    passages = [text(name, weight) for name, weight in zip(names, weights, strict=True)]
    rows = placements(documents, passages, Splits(), seed)
    for share in shares(rows, Splits()):
        assert share.got == pytest.approx(share.asked, abs=0.01)
    assert splits(rows) != splits(placements(documents, passages, Splits(), seed + 1))
    held = [row.tokens for row in rows if row.split == "test"]
    assert max(held) > 200  # not the smallest ones only


def test_a_group_too_large_for_validation_and_test_goes_to_train_and_says_so():
    documents, passages = corpus(30, 10)
    documents += [document("book"), document("chapter")]
    shared = [f"b{n}" for n in range(400)]
    passages += [text("book", 500, shared), text("chapter", 60, shared[:100])]
    for seed in range(5):
        rows = {row.doc_id: row for row in placements(documents, passages, Splits(), seed)}
        assert rows["book"].split == rows["chapter"].split == "train"
        assert rows["book"].why == rows["chapter"].why == "too large"
        assert rows["book"].group == rows["chapter"].group == "book"
        counts = sizes(rows.values())
        assert counts["test"] == counts["val"] == 90  # of 860, in documents of 10


@pytest.mark.parametrize(
    ("count", "expected"), [(1, {"train"}), (2, {"train", "test"}), (3, {"train", "val", "test"})]
)
def test_few_documents_fill_as_many_splits_as_they_can(count, expected):
    rows = placements(*corpus(count), Splits(), 1)
    assert set(splits(rows).values()) == expected
    assert count < 2 or {row.why for row in rows} == {"too large", "filled"}


def test_the_only_small_document_is_for_the_test():
    documents = [document("giant"), document("small")]
    passages = [text("giant", 1000), text("small", 80)]
    wide = Splits(train=0.85, val=0.1, test=0.05)  # it would fit into val alone
    assert splits(placements(documents, passages, wide, 1)) == {"giant": "train", "small": "test"}


def test_documents_without_text_take_no_place_of_others():
    documents, passages = corpus(3)
    documents += [document(f"e{n}") for n in range(5)]
    rows = {row.doc_id: row for row in placements(documents, passages, Splits(), 1)}
    assert len({rows[f"d0{n}"].split for n in range(3)}) == 3
    assert {(rows[f"e{n}"].split, rows[f"e{n}"].why) for n in range(5)} == {("train", "empty")}


def test_only_readable_documents_have_a_row():
    documents, passages = corpus(3)
    documents += [
        document("broken", status="unreadable"),
        document("copy", doc_id="d00", status="duplicate"),
        document("nothing", doc_id="", status="unreadable", group="x"),
        document("partly", status="partial"),
    ]
    assert set(splits(placements(documents, passages, Splits(), 1))) == {
        "d00",
        "d01",
        "d02",
        "partly",
    }


def test_paths_pin_documents_with_their_groups_and_shares_divide_the_rest():
    documents, passages = corpus()
    documents[0] = document("d00", group="atlas")
    documents[1] = document("d01", group="atlas")
    asked = Splits(train=0.5, val=("*/d05.pdf",), test=("*/d00.pdf", "*/d07.pdf"))
    rows = placements(documents, passages, asked, 1)
    found = splits(rows)
    assert found["d00"] == found["d01"] == found["d07"] == "test"
    assert found["d05"] == "val"
    assert Counter(found.values()) == {"train": 16, "test": 3, "val": 1}
    assert Counter(row.why for row in rows) == {"drawn": 16, "pinned": 4}
    given_by_paths = {share.split: share.asked for share in shares(rows, asked)}
    assert given_by_paths == {"train": 1.0, "val": None, "test": None}


def test_without_a_share_of_train_the_others_divide_everything():
    documents, passages = corpus(10)
    asked = Splits(train=("*/d00.pdf",), val=0.5, test=0.5)
    counts = sizes(placements(documents, passages, asked, 1))
    assert counts["train"] == 100
    assert {counts["val"], counts["test"]} == {400, 500}


def test_a_tag_sends_its_documents_to_a_split_and_they_count_in_its_share():
    documents, passages = corpus()
    for place in (3, 4, 5, 6):
        documents[place] = document(f"d{place:02d}", tags=("essential", "guideline"))
    documents[7] = document("d07", group="d03")
    rows = placements(documents, passages, Splits(tags={"essential": "train"}), 1)
    pinned = {row.doc_id for row in rows if row.why == "tag essential"}
    assert pinned == {"d03", "d04", "d05", "d06", "d07"}
    assert {row.split for row in rows if row.doc_id in pinned} == {"train"}
    assert sizes(rows) == {"train": 1600, "val": 200, "test": 200}


def test_the_tag_of_a_copy_counts():
    documents, passages = corpus(10)
    documents.append(document("copy", doc_id="d03", status="duplicate", tags=("essential",)))
    for seed in range(4):
        rows = placements(documents, passages, Splits(tags={"essential": "test"}), seed)
        assert splits(rows)["d03"] == "test"


def test_a_path_or_tag_that_matches_nothing_or_claims_a_group_twice_is_told():
    documents, passages = corpus(4)
    documents[0] = document("d00", tags=("essential",))
    for wrong, message in (
        (Splits(test=("nothing*",)), r"nothing\*"),
        (Splits(test=("*d00*",), val=("*d0*",)), "test and val both claim"),
        (Splits(tags={"esential": "train"}), 'did you mean "essential"'),
        (Splits(test=("*d00*",), tags={"essential": "train"}), "both claim"),
    ):
        with pytest.raises(UsageError, match=message):
            placements(documents, passages, wrong, 1)
    documents[1] = document("d01", tags=("special",), group="d00")
    both = Splits(tags={"essential": "train", "special": "test"})
    with pytest.raises(UsageError, match=r"train \(tag essential\) and test \(tag special\)"):
        placements(documents, passages, both, 1)


def test_new_documents_move_no_earlier_one_and_fill_what_lacks():
    documents, passages = corpus(40)
    first = placements(documents[:20], passages[:20], Splits(), 1)
    second = placements(documents, passages, Splits(), 1, first)
    assert {row.doc_id: row for row in second if row.doc_id < "d20"} == {
        row.doc_id: row for row in first
    }
    assert sizes(second) == {"train": 3200, "val": 400, "test": 400}
    assert splits(placements(documents, passages, Splits(), 1)) != splits(second)
    assert placements(documents[5:], passages[5:], Splits(), 1, second) == second[5:]


def test_a_file_changed_in_its_place_stays_and_one_that_only_took_the_place_does_not():
    documents, passages = corpus()
    first = placements(documents, passages, Splits(), 1)
    name = next(row.doc_id for row in first if row.split == "test")
    place = int(name[1:])
    documents[place] = document("new", path=f"books/{name}.pdf")
    passages[place] = text("new")
    found = splits(placements(documents, passages, Splits(), 1, first))
    assert found.pop("new") == "test"
    assert found.items() <= splits(first).items()
    moved = [*documents, document(name, path="elsewhere.pdf")]
    rows = placements(moved, [*passages, text(name)], Splits(), 1, first)
    found = {row.doc_id: row for row in rows}
    assert (found[name].split, found[name].why) == ("test", "drawn")
    assert found["new"].split == "train"  # test has its share


def test_other_settings_draw_anew_but_not_those_that_do_not_place_documents():
    documents, passages = corpus(40)
    first = placements(documents[:20], passages[:20], Splits(), 1)
    fresh = placements(documents, passages, Splits(train=0.7, test=0.2), 1)
    assert placements(documents, passages, Splits(train=0.7, test=0.2), 1, first) == fresh
    assert placements(documents, passages, Splits(), 2, first) == placements(
        documents, passages, Splits(), 2
    )
    stayed = splits(placements(documents, passages, Splits(seen=0.5), 1, first))
    assert stayed.items() >= splits(first).items()


def linked():
    """Twenty documents, and one that shares text with the first of test, val and train each."""
    documents, passages = corpus()
    words = {d.doc_id: [f"{d.doc_id}w{n}" for n in range(100)] for d in documents}
    passages = [text(name, 100, said) for name, said in words.items()]
    first = placements(documents, passages, Splits(), 1)
    of = {
        part: next(row.doc_id for row in first if row.split == part)
        for part in ("train", "val", "test")
    }
    return documents, passages, words, first, of


def test_what_joins_an_earlier_document_stands_beside_it():
    documents, passages, words, first, of = linked()
    new = [document("new")], [text("new", 5000, words[of["test"]][:80])]
    rows = placements([*documents, *new[0]], [*passages, *new[1]], Splits(), 1, first)
    found = {row.doc_id: row for row in rows}
    assert (found["new"].split, found["new"].why) == ("test", "joined")
    assert splits(rows).items() >= splits(first).items()


@pytest.mark.parametrize("others", [("train", "test"), ("val", "test"), ("train", "val")])
def test_text_that_joins_two_splits_goes_to_train_whole_and_says_so(others):
    documents, passages, words, first, of = linked()
    both = [word for part in others for word in words[of[part]][:80]]
    rows = placements(
        [*documents, document("new")], [*passages, text("new", 10, both)], Splits(), 1, first
    )
    found = {row.doc_id: row for row in rows}
    assert {found[name].split for name in ("new", *(of[part] for part in others))} == {"train"}
    assert found[of[others[1]]].why == f"merged, was {others[1]}"
    assert found["new"].why == "merged"
    unmoved = {
        name: part for name, part in splits(first).items() if name not in map(of.get, others)
    }
    assert splits(rows).items() >= unmoved.items()
    again = placements(
        [*documents, document("new")], [*passages, text("new", 10, both)], Splits(), 1, rows
    )
    assert again == rows


def test_what_was_trained_on_is_not_pinned_to_test_afterwards():
    documents, passages, _, _, _ = linked()
    asked = Splits(tags={"special": "test"})
    documents = [document("a", tags=("special",)), *documents]
    passages = [text("a"), *passages]
    first = placements(documents, passages, asked, 1)
    name = next(row.doc_id for row in first if row.split == "train")
    tagged = [document(name, tags=("special",)) if row.doc_id == name else row for row in documents]
    with pytest.raises(UsageError, match=r"delete splits\.jsonl"):
        placements(tagged, passages, asked, 1, first)


WORDS = {source: [f"s{source}w{n}" for n in range(160)] for source in range(5)}
one_document = st.fixed_dictionaries(
    {
        "pieces": st.lists(
            st.tuples(st.integers(0, 4), st.integers(0, 90), st.integers(0, 120)), max_size=2
        ),
        "tokens": st.sampled_from([0, 1, 7, 50, 400, 20_000]),
        "group": st.sampled_from(["", "", "", "atlas", "course"]),
        "tags": st.sampled_from([(), (), (), ("essential",)]),
        "status": st.sampled_from(["ok", "ok", "ok", "partial", "unreadable", "duplicate"]),
    }
)
corpora = st.lists(one_document, min_size=1, max_size=14)


def made(recipes):
    documents, passages = [], []
    for number, recipe in enumerate(recipes):
        name = f"d{number:02d}"
        documents.append(
            document(name, recipe["group"], tags=recipe["tags"], status=recipe["status"])
        )
        said = [
            w
            for source, start, size in recipe["pieces"]
            for w in WORDS[source][start : start + size]
        ]
        if said and recipe["status"] in ("ok", "partial"):
            passages.append(text(name, recipe["tokens"], said))
    return documents, passages


def asked_of(documents):
    tagged = any("essential" in d.tags for d in documents if d.status in ("ok", "partial"))
    return Splits(tags={"essential": "train"} if tagged else {})


steady = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@steady
@given(corpora, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_any_corpus_is_placed_whole_once_and_in_any_order(recipes, seed, rng):
    documents, passages = made(recipes)
    asked = asked_of(documents)
    rows = placements(documents, passages, asked, seed)
    readable = sorted(d.doc_id for d in documents if d.status in ("ok", "partial"))
    assert [row.doc_id for row in rows] == readable
    sides = defaultdict(set)
    for row in rows:
        sides[row.group].add(row.split)
    assert all(len(found) == 1 for found in sides.values())
    named = defaultdict(set)
    for d in documents:
        if d.doc_id in readable:
            named[d.group].add(splits(rows)[d.doc_id])
    assert all(len(found) == 1 for found in named.values())
    full = {row.group for row in rows if row.tokens}
    filled = {row.split for row in rows if row.tokens}
    assert "train" in filled or not full
    if len(full) > 1 and not asked.tags:
        assert "test" in filled
    rng.shuffle(documents)
    rng.shuffle(passages)
    assert placements(documents, passages, asked, seed) == rows


@steady
@given(corpora, st.integers(1, 13), st.integers(0, 2**32))
def test_any_new_documents_move_an_earlier_one_only_by_a_merge_and_never_into_test(
    recipes, count, seed
):
    documents, passages = made(recipes)
    asked = asked_of(documents[:count])
    names = {d.doc_id for d in documents[:count]}
    earlier = [row for row in passages if row.doc_id in names]
    first = placements(documents[:count], earlier, asked, seed)
    rows = {row.doc_id: row for row in placements(documents, passages, asked, seed, first)}
    for row in first:
        now = rows[row.doc_id]
        if now.split != row.split:
            assert now.split == "train"
            assert now.why in (f"merged, was {row.split}", f"tag essential, was {row.split}")
        elif not now.why.startswith("tag"):
            assert now.why == row.why
    assert placements(documents, passages, asked, seed, list(rows.values())) == list(rows.values())


def test_what_a_tag_moved_says_so_until_it_moves_again():
    recipes = [
        {"pieces": [(0, 0, n)], "tokens": 100, "group": "", "status": "ok",
         "tags": ("essential",) if n == 0 else ()}
        for n in range(5)
    ]  # fmt: skip
    documents, passages = made(recipes)
    asked = Splits(tags={"essential": "train"})
    first = placements(documents, passages, asked, 1)
    moved = next(row for row in first if row.split == "test")
    tagged = [
        row.model_copy(update={"tags": ("essential",)} if row.doc_id == moved.doc_id else {})
        for row in documents
    ]
    second = placements(tagged, passages, asked, 1, first)
    (now,) = (row for row in second if row.doc_id == moved.doc_id)
    assert (now.split, now.why) == ("train", "tag essential, was test")
    assert placements(tagged, passages, asked, 1, second) == second
