"""Passages of a document that a kill left in the middle are cut again."""

from pathlib import Path

from ecg_llm import config, pipeline, store
from ecg_llm.records import Document, Passage
from ecg_llm.steps import Work


def test_a_document_of_which_only_some_passages_were_kept_is_cut_again(tmp_path: Path) -> None:
    study = config.Study()
    models = pipeline.Models(study, tmp_path)
    rows = []
    for number in range(3):
        text = "\n\n".join(f"# Part {n}\n\nThe wave {n} of {number} is broad." for n in range(9))
        row = Document(
            path=f"{number}.md", doc_id=f"d{number}", pages=1, page_starts=(0,), status="ok"
        )
        rows.append(row)
        store.write_text(pipeline.text_file(tmp_path, row), text)
    store.write(tmp_path / "documents.jsonl", rows)

    def cut(done: list[Passage]) -> set[str]:
        work = Work(tmp_path, list(done), tmp_path, lambda done, total: None, {})
        made = list(pipeline.cut_passages(work, study, models))
        return {row.key[0] for row in [*done, *made]}

    work = Work(tmp_path, [], tmp_path, lambda done, total: None, {})
    whole = list(pipeline.cut_passages(work, study, models))
    passages = [row for row in whole if isinstance(row, Passage)]
    assert len(passages) == 27
    for kept in (1, 9, 12, 18, 20):
        assert cut(passages[:kept]) == {row.passage_id for row in passages}
