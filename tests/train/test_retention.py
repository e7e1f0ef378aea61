from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ecg_llm import local
from ecg_llm.answer.arms import ModelAnswerer
from ecg_llm.config import Answers
from ecg_llm.contracts import Likelihood, Task
from ecg_llm.local import LocalModel
from ecg_llm.records import Question, Retention
from ecg_llm.score.choice import ChoiceScorer
from ecg_llm.score.overlap import OverlapScorer
from ecg_llm.train.retention import BATCH, outside, retention, sampled


def _outside(row: Question, name: str = "mmlu") -> Question:
    return row.model_copy(update={"set": name, "split": "test", "group": row.question_id})


CHOICES = [_outside(here.choice(i)) for i in range(12)]
OPEN = [_outside(here.open_question(i), "clinic") for i in range(6)]
BOTH = [*CHOICES, *OPEN]


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does something, untrained."""
    out = tmp_path_factory.mktemp("adapters") / "tuned"
    model = AutoModelForCausalLM.from_pretrained(tiny)
    settings = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    with local.quiet():
        get_peft_model(model, settings).save_pretrained(out, save_embedding_layers=False)
    return out


def _rows(tiny: Path, adapter: Path | None, questions: Sequence[Question]) -> list[Retention]:
    return list(
        retention(
            "tuned",
            lambda: LocalModel(str(tiny)),
            lambda: LocalModel(str(tiny), adapter=adapter),
            questions,
            100,
            seed=1,
        )
    )


@pytest.mark.parametrize(
    "changed",
    [{"set": "written"}, {"doc_id": "d"}, {"split": "test_seen"}, {"split": "train"},
     {"status": "dropped", "reason": "duplicate"}],
)  # fmt: skip
def test_only_tested_imported_questions_without_a_document_are_outside(
    changed: dict[str, str],
) -> None:
    inside = CHOICES[0].model_copy(update={"question_id": "inside", **changed})
    assert outside([inside, *BOTH]) == BOTH


def test_the_sample_holds_each_set_and_kind_and_hangs_on_the_seed_alone() -> None:
    chosen = sampled(BOTH, 4, seed=1)
    assert [sum(row.kind == kind for row in chosen) for kind in ("choice", "open")] == [4, 4]
    assert chosen == sampled(BOTH[::-1], 4, seed=1)
    assert chosen != sampled(BOTH, 4, seed=2)
    assert sampled(BOTH, 100, seed=1) == sorted(BOTH, key=lambda row: row.key)


def test_scores_are_those_of_the_products_own_metrics(tiny: Path, adapter: Path) -> None:
    rows = {row.question_id: row for row in _rows(tiny, adapter, BOTH)}
    assert set(rows) == {question.question_id for question in BOTH}
    for column, folder in (("before", None), ("after", adapter)):
        model = LocalModel(str(tiny), adapter=folder)
        made = ModelAnswerer(model, Answers(max_tokens_open=1, max_tokens_choice=1), 1).answer(
            "tuned", [Task(question, question.options) for question in BOTH]
        )
        by_id = {question.question_id: question for question in BOTH}
        items = [(by_id[answer.question_id], answer) for answer, _ in made]
        scores = [
            *(s for s in ChoiceScorer().score(items) if s.metric == "accuracy_likelihood"),
            *(s for s in OverlapScorer().score(items) if s.metric == "reference_likelihood"),
        ]
        scored = [score for score in scores if score.status == "scored"]
        assert len(scored) == len(BOTH)
        for score in scored:
            assert getattr(rows[score.question_id], column) == pytest.approx(score.value, abs=1e-4)
    changed = sum(row.before != row.after for row in rows.values())
    assert changed >= len(OPEN)


def test_what_learned_nothing_forgot_nothing(tiny: Path) -> None:
    assert all(row.before == row.after for row in _rows(tiny, None, BOTH))


def test_what_cannot_be_scored_is_a_row_that_says_why(tiny: Path) -> None:
    long = OPEN[0].model_copy(update={"context": "The PR interval is long. " * 200})
    bare = OPEN[1].model_copy(update={"reference": ""})
    keyless = CHOICES[0].model_copy(update={"answer": "F"})
    rows = {row.question_id: row for row in _rows(tiny, None, [long, bare, keyless, CHOICES[1]])}
    assert "context" in rows[long.question_id].reason
    assert "no reference" in rows[bare.question_id].reason
    assert "no key" in rows[keyless.question_id].reason
    assert rows[CHOICES[1].question_id].status == "scored"
    for row in (long, bare, keyless):
        found = rows[row.question_id]
        assert (found.status, found.before, found.after) == ("not_applicable", None, None)


class Fixed:
    """Says what it was told: a tie or a broken number no real model gives on demand."""

    name = "fixed"

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def likelihoods(self, prompts: Sequence[Any], texts: Sequence[Any]) -> list[list[Likelihood]]:
        return [
            [Likelihood(v, 2) for v, _ in zip(self.values, group, strict=False)] for group in texts
        ]


def _fixed(before: Sequence[float], after: Sequence[float], question: Question) -> Retention:
    made = retention(
        "tuned", lambda: Fixed(before), lambda: Fixed(after), [question], 9, seed=1  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    return next(made)


def test_a_tie_is_wrong_and_a_broken_model_has_no_score() -> None:
    first = CHOICES[0]  # A is right
    row = _fixed([-1, -2, -3, -4], [-1, -1, -3, -4], first)
    assert (row.before, row.after) == (1.0, 0.0)
    row = _fixed([-1, -2, -3, -4], [float("nan")] * 4, first)
    assert (row.status, row.before) == ("not_applicable", None)
    assert "finite" in row.reason


def test_one_model_is_asked_after_the_other_and_progress_counts_both(tiny: Path) -> None:
    told: list[object] = []

    def model(name: str) -> Any:
        told.append(name)
        return LocalModel(str(tiny))

    made = retention(
        "tuned", lambda: model("base"), lambda: model("tuned"), BOTH, 100, seed=1,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert len(list(made)) == len(BOTH)
    total = 2 * len(BOTH)
    assert told == ["base", (len(BOTH), total), "tuned", (total, total)]


def test_a_killed_run_goes_on_with_equal_figures(tiny: Path, adapter: Path) -> None:
    many = [_outside(here.choice(i)) for i in range(BATCH + 5)]
    whole = _rows(tiny, adapter, many)
    loaded: list[str] = []

    def again(done: Sequence[Retention]) -> list[Retention]:
        def base() -> LocalModel:
            loaded.append("base")
            return LocalModel(str(tiny))

        keys = {row.key for row in done}
        tuned = LocalModel(str(tiny), adapter=adapter)
        return list(retention("tuned", base, lambda: tuned, many, 100, 1, keys))

    assert again(whole[: BATCH + 2]) == whole[BATCH:]
    assert again(whole[:3]) == whole
    loaded.clear()
    assert again(whole) == []
    assert loaded == []
