"""A judge at work: whatever its settings ask for, as the replies come."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from ecg_llm.config import Judge
from ecg_llm.contracts import ChatModel, Decoding, Progress
from ecg_llm.records import Answer, Judgement, Passage, Question
from ecg_llm.score.asking import Asked, filled, hear, unchanged
from ecg_llm.score.ranking import rankings
from ecg_llm.score.verdict import verdicts


def judgements(
    judge_name: str,
    model: ChatModel,
    items: Sequence[tuple[Question, Answer]],
    passages: Mapping[str, Passage],
    settings: Judge,
    seed: int,
    done: Collection[str] = (),
    progress: Progress = lambda done, total: None,
    former: Sequence[Judgement] = (),
) -> Iterator[Judgement]:
    """Yield a judge's judgements in every mode of its settings, as the replies come.

    The judge sees question, reference, the passage behind it and answers without citation keys;
    never an arm. Every request ends as a row.

    Args:
        judge_name: Name of the judge in study.yaml.
        model: The judge.
        items: Questions with their answers; those to choice questions are left out.
        passages: Passages by passage_id.
        settings: The judge's section of study.yaml.
        seed: Seed of the replies and of the blocks.
        done: The judgement_ids that need not be made again.
        progress: Called with (done, total).
        former: Judgements of an earlier run under the same settings, yielded again where the
            request is the same.

    Raises:
        ServerError: the judge cannot be reached; what was yielded before is good.
    """
    wanted = asked(judge_name, items, passages, settings, seed)
    rows = {row.judgement_id: row for row, _ in wanted}
    for row, request in wanted:
        if request is None and row.judgement_id not in done:
            yield row.model_copy(update={"model": model.name})
    requests = [request for _, request in wanted if request is not None]
    kept = unchanged(former, requests, model)
    yield from (row for name, row in kept.items() if name not in done)
    requests = [request for request in requests if request.row_id not in kept]
    for heard in hear(model, requests, decoding(settings, seed), done, progress):
        yield filled(rows[heard.row_id], heard, model.name)


def asked(
    judge_name: str,
    items: Sequence[tuple[Question, Answer]],
    passages: Mapping[str, Passage],
    settings: Judge,
    seed: int,
) -> list[Asked]:
    """Return all that a judge is to judge, in every mode of its settings."""
    wanted: list[Asked] = []
    if "verdict" in settings.modes:
        wanted += verdicts(judge_name, items, passages)
    if "ranking" in settings.modes:
        wanted += rankings(judge_name, items, passages, settings, seed)
    return wanted


def decoding(settings: Judge, seed: int) -> Decoding:
    """Return how a judge's replies are sampled."""
    return Decoding(settings.max_tokens, settings.temperature, seed=seed)
