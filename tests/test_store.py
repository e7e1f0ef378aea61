"""Tables: equal rows are equal bytes, a torn line is cut, a bad line is named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ecg_llm import store
from ecg_llm.records import METRICS, TABLES, Draft, Passage, Score, digest


def draft(name: str) -> Draft:
    return Draft(draft_id=name, passage_ids=("p",), kind="open", reply="ä \u2028 é")


def test_rows_come_back_and_order_does_not_matter(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    store.write(a, [draft("2"), draft("1")])
    store.write(b, [draft("1"), draft("2")])
    assert a.read_bytes() == b.read_bytes()
    assert store.read(a, Draft) == [draft("1"), draft("2")]
    assert store.read(tmp_path / "absent.jsonl", Draft) == []


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store.write(path, [draft("1")])
    with pytest.raises(AttributeError), store.replacing(path) as file:
        file.write(None.nothing)  # type: ignore[attr-defined]
    assert store.read(path, Draft) == [draft("1")]
    assert list(tmp_path.iterdir()) == [path]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(store.line_of(draft("1")) + b'{"draft_id": 5}\n')
    with pytest.raises(store.TableError, match="line 2"):
        store.read(path, Draft)
    path.write_bytes(store.line_of(draft("1")) * 2)
    with pytest.raises(store.TableError, match="line 1 too"):
        store.read(path, Draft)


def test_a_torn_last_line_is_cut_and_appending_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(store.line_of(draft("1")) + store.line_of(draft("2"))[:30])
    partial = store.Partial(path, Draft)
    assert partial.rows == [draft("1")]
    partial.append(draft("3"))
    partial.close()
    assert store.read(path, Draft) == [draft("1"), draft("3")]


def test_nan_never_enters_a_table() -> None:
    with pytest.raises(ValidationError):
        Score(question_id="q", arm="a", metric="accuracy", value=float("nan"))


def test_ids_do_not_change_between_versions() -> None:
    assert digest("a", 1, ["b"]) == "206deece1e62e0a8"
    assert Passage.id_for("d", 0, 4, "text") == digest("d", 0, 4, "text")


def test_every_key_column_is_a_column() -> None:
    for row in TABLES.values():
        assert set(row.key_columns) <= set(row.model_fields)
    assert all(metric.label for metric in METRICS.values())
