from pathlib import Path

from ecg_llm import store
from ecg_llm.commands import estimates
from ecg_llm.records import Estimate


def difference(metric: str) -> Estimate:
    return Estimate(
        metric=metric, subset="s/test", arm="a", against="b", method="difference/cluster_bootstrap",
        value=0.02, test="sign_flip", p=0.5, effect=0.05, error=0.04, freedom=99, detectable=0.11,
        questions=100, clusters=100, wins=30, losses=28,
    )  # fmt: skip


def test_the_next_study_is_planned_by_what_decides_and_one_metric_of_wording(
    tmp_path: Path,
) -> None:
    metrics = ("accuracy", "accuracy_likelihood", "ranking", "verdict", "human", "rougeL")
    rows = [difference(metric) for metric in (*metrics, "rouge1", "bleu", "words")]
    store.write(tmp_path / "estimates.jsonl", rows)
    made = estimates.planned(tmp_path, 0.05)
    assert [row.metric for row in made] == sorted(metrics)
    assert all((row.needed_questions or 0) > row.questions for row in made)
    assert estimates.planning(made).rows[0][3] == "100 (100)"
