import json

import pytest

from ecg_llm.contracts import UsageError
from ecg_llm.corpus import given
from ecg_llm.records import GivenPassage


def words(texts):
    return [len(text.split()) for text in texts]


def write(folder, *rows):
    path = folder / "passages.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


ONE = {"passage_id": "b/1 ü", "text": "The PR interval is 120 to 200 ms.", "doc_id": "pmid:1"}
TWO = {"passage_id": 7, "text": "Das EKG ist die Aufzeichnung der Herzaktion.", "title": "EKG"}


def test_ids_and_texts_are_taken_over_as_they_are(tmp_path):
    rows = given.read(write(tmp_path, ONE, "", {**TWO, "year": 2020, "section": None}, ONE))
    assert rows == [
        GivenPassage(**ONE),
        GivenPassage(passage_id="7", text=TWO["text"], title="EKG"),
    ]


def test_a_passage_of_no_document_is_one_of_its_own(tmp_path):
    rows = given.read(write(tmp_path, ONE, TWO))
    first, second = given.documents(rows)
    assert (first.path, first.doc_id, first.status, first.language) == ("pmid:1",) * 2 + (
        "ok",
        "en",
    )
    assert (second.path, second.title, second.language) == ("7", "EKG", "de")


def test_passages_of_one_document_have_offsets_of_its_text(tmp_path):
    texts = ["First  passage.\n", "Second\u2028passage.", "Third."]
    rows = given.read(
        write(tmp_path, *({"passage_id": f"p{n}", "text": t, "doc_id": "d", "page": n + 1}
                          for n, t in enumerate(texts)))
    )  # fmt: skip
    made = given.passages(rows, words)
    whole = given.APART.join(texts)
    assert [whole[row.start : row.end] for row in made] == texts
    assert [(row.passage_id, row.page_from, row.tokens) for row in made] == [
        ("p0", 1, 2), ("p1", 2, 2), ("p2", 3, 1),
    ]  # fmt: skip


def test_what_holds_no_text_is_a_document_that_says_so(tmp_path):
    rows = given.read(write(tmp_path, {"passage_id": "a", "text": " "}, ONE))
    assert [(row.path, row.status, row.reason) for row in given.documents(rows)] == [
        ("a", "unreadable", "empty"), ("pmid:1", "ok", ""),
    ]  # fmt: skip
    assert [row.passage_id for row in given.passages(rows, words)] == [ONE["passage_id"]]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "line 1 is no JSON"),
        ([ONE, "[1]"], "line 2 is no JSON object"),
        ([ONE, {"text": "x"}], "line 2: passage_id: Field required"),
        ([{"passage_id": "a"}], "line 1: text: Field required"),
        ([{"passage_id": "", "text": "x"}], "line 1: passage_id"),
        ([{"passage_id": "a", "text": 3}], "line 1: text"),
        ([{"passage_id": "a", "text": "x", "page": -1}], "line 1: page"),
        ([ONE, {**ONE, "text": "Another."}], "line 2: another passage is named 'b/1 ü' too"),
        (["[" * 100_000], "line 1 is no JSON"),
        ([""], "holds no passages"),
    ],
)
def test_a_file_that_is_wrong_names_its_line(tmp_path, lines, said):
    with pytest.raises(UsageError) as caught:
        given.read(write(tmp_path, *lines))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_a_sentence(tmp_path):
    (tmp_path / "utf16").write_bytes("{}".encode("utf-16"))
    for name in ("absent", "utf16", "."):
        with pytest.raises(UsageError, match="cannot be read"):
            given.read(tmp_path / name)
