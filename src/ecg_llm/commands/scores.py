"""What judging would take, before it is paid for."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ecg_llm import config, pipeline, steps
from ecg_llm.contracts import ChatModel, Decoding, UsageError
from ecg_llm.records import Answer, KeyFacts, Passage, Question
from ecg_llm.score import asking, facts, judging

REPLY = 150
"""Tokens of a reply, where nothing is known yet: an object with two or three sentences."""


class Load(NamedTuple):
    """What one model is asked for in one mode."""

    judge: str
    mode: str
    requests: int
    kept: int
    """Of these, whose replies lie in the cache and cost nothing."""
    tokens: int
    """Of the requests to be sent and their replies, estimated."""
    cost: float
    """In the currency of the prices in study.yaml."""


def preview(folder: Path, study: config.Study, models: pipeline.Models) -> list[Load]:
    """Return what each judge and the model of key facts would be asked for, in each mode.

    Where key facts are not listed yet, the reference stands for them.

    Raises:
        UsageError: no open question has been answered, or nothing would judge.
    """
    questions = steps.read_table(folder / "questions.jsonl", Question)
    items = pipeline.open_items(questions, steps.read_table(folder / "answers.jsonl", Answer))
    passages = {row.passage_id: row for row in steps.read_table(folder / "passages.jsonl", Passage)}
    listed = {row.question_id: row for row in steps.read_table(folder / "facts.jsonl", KeyFacts)}
    if questions and not any(row.kind == "open" for row in pipeline.tested(questions, study)):
        raise UsageError("This study tests no open question, and judges read no other answers.")
    if not items:
        raise UsageError("There are no open answers to judge yet; make them: ecg-llm answers")
    found = []
    for name, settings in study.scores.judges.items():
        pipeline.kinship(study, name)
        requests: dict[str, list[asking.Request]] = defaultdict(list)
        for row, request in judging.asked(name, items, passages, settings, study.seed):
            if request is not None:
                requests[row.mode].append(request)
        decoding = judging.decoding(settings, study.seed)
        for mode in settings.modes:
            asked = requests[mode]
            found.append(_load(study, models, name, mode, settings.model, asked, decoding))
    key_facts = study.scores.facts
    if key_facts.model:
        decoding = facts.decoding(key_facts, study.seed)
        of = {question.question_id: question for question, _ in items}
        known = {
            name: listed.get(name) or KeyFacts(question_id=name, facts=(question.reference,))
            for name, question in of.items()
            if question.reference
        }
        for step, wanted in (
            ("list", facts.list_requests(list(of.values()))),
            ("check", facts.check_requests(items, known)),
        ):
            name = pipeline.FACTS
            found.append(_load(study, models, name, step, key_facts.model, wanted, decoding))
    if not found:
        raise UsageError(
            "No model judges in this study: name one in scores.judges or scores.facts.model."
        )
    return found


def _load(
    study: config.Study,
    models: pipeline.Models,
    judge: str,
    mode: str,
    entry: str,
    requests: Sequence[asking.Request],
    decoding: Decoding,
) -> Load:
    model = models.chat(entry)
    missing = [
        request
        for request, kept in zip(requests, _kept(model, requests, decoding), strict=True)
        if not kept
    ]
    asked = sum(model.count_tokens(["\n".join(m["content"] for m in r.messages) for r in missing]))
    said = len(missing) * min(REPLY, decoding.max_tokens)
    settings = study.models[entry]
    prices = (
        (settings.price_in, settings.price_out)
        if isinstance(settings, config.ApiModelConfig)
        else (0.0, 0.0)
    )
    cost = (asked * prices[0] + said * prices[1]) / 1e6
    return Load(judge, mode, len(requests), len(requests) - len(missing), asked + said, cost)


def _kept(
    model: ChatModel, requests: Sequence[asking.Request], decoding: Decoding
) -> Sequence[bool]:
    from ecg_llm.chat import ApiModel

    if not isinstance(model, ApiModel):
        return [False] * len(requests)
    return model.kept([r.messages for r in requests], decoding, [r.schema for r in requests])
