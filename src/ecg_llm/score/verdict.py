"""A judge's verdict on each answer alone: the experts' scale, harm, and the words that decided."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ecg_llm.contracts import Message
from ecg_llm.prompt import harmless, quoted, render
from ecg_llm.records import GRADES, Answer, Judgement, Passage, Question, Score
from ecg_llm.score.asking import (
    NO_OBJECT,
    UNREAD,
    Asked,
    Request,
    fence,
    judgement_id,
    last_object,
    shown_text,
    unshown,
    why_unread,
)
from ecg_llm.score.overlap import blank

HARMS: Mapping[str, float] = {"none": 0.0, "possible": 0.5, "severe": 1.0}
NOT_STATED = "not stated"
KEYS = frozenset({"verdict"})
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "evidence": {"type": "string"},
        "quote": {"type": "string"},
        "verdict": {"type": "string", "enum": list(GRADES)},
        "harm": {"type": "string", "enum": list(HARMS)},
    },
    "required": ["reason", "evidence", "quote", "verdict", "harm"],
    "additionalProperties": False,
}
"""The reason comes first, so that the verdict follows from it."""
TYPOGRAPHIC = str.maketrans("“”„«»‘’‚‹›", '"""""' + "'''''")
LEFT_OUT = re.compile(r"\s*\[?(?:\.{3,}|…)\]?\s*")
"""With what a quotation leaves words out."""


def verdicts(
    judge_name: str,
    items: Iterable[tuple[Question, Answer]],
    passages: Mapping[str, Passage],
) -> Iterator[Asked]:
    """Yield the verdicts to ask a judge for: one on each answer to an open question.

    Failed, refused and empty answers are not shown to the judge. `passages` are by passage_id.
    """
    for question, answer in sorted(items, key=lambda item: item[1].key):
        if question.kind != "open":
            continue
        row = Judgement(
            judgement_id=judgement_id(judge_name, "verdict", answer),
            judge=judge_name,
            question_id=answer.question_id,
            mode="verdict",
            order=(answer.arm,),
            repeat=answer.repeat,
        )
        if reply := unshown(answer):
            update = {"status": reply.status, "reason": reply.reason}
            yield Asked(row.model_copy(update=update), None)
            continue
        messages = verdict_messages(question, answer, passages.get(question.passage_id))
        problem = partial(_problem, shown=shown_text(answer))
        yield Asked(row, Request(row.judgement_id, messages, SCHEMA, problem))


def verdict_messages(question: Question, answer: Answer, passage: Passage | None) -> list[Message]:
    """Return the chat that asks for a verdict on one answer, without its arm.

    The answer stands between two lines that its author could not foresee.
    """
    text = shown_text(answer)
    values = source_values(question, passage) | {
        "answer": text,
        "fence": fence(question.question_id, text),
    }
    return [{"role": "user", "content": render("verdict", values)}]


def source_values(question: Question, passage: Passage | None) -> dict[str, str]:
    """Return what a judge's prompt says of a question: itself, its reference and its source."""
    asked = f"{question.question}\n\n{question.context}" if question.context else question.question
    return {
        "question": quoted(asked),
        "reference": quoted(question.reference) or "(none given)",
        "evidence": harmless(_source(question, passage)) or "(none given)",
    }


def _source(question: Question, passage: Passage | None) -> str:
    """Return the text that the reference rests on: its passage, and quotes from elsewhere."""
    texts = [passage.text] if passage else []
    for quote in (question.evidence, *(span.text for span in question.joined)):
        if not any(quote in text for text in texts):
            texts.append(quote)
    return "\n\n".join(texts)


class Verdict(NamedTuple):
    """What a judge's reply says."""

    grade: str
    harm: str
    """A key of HARMS, or NOT_STATED."""
    reason: str = ""
    evidence: str = ""
    """Words of the reference or its source that decided, as far as the judge is to be believed."""
    quote: str = ""
    """Words of the answer that decided, likewise."""


def read_verdict(reply: str, shown: str = "") -> Verdict | None:
    """Return the verdict of the last JSON object of a reply, None if it is not clear.

    An object copied from the answer `shown` is the answer's, not the judge's; see last_object.
    """
    last = last_object(reply, KEYS, shown)
    grade = _word(last, "verdict")
    if grade not in GRADES:
        return None
    harm = _word(last, "harm")
    said = (" ".join(str(last.get(key) or "").split()) for key in ("reason", "evidence", "quote"))
    return Verdict(grade, harm if harm in HARMS else NOT_STATED, *said)


def _word(said: Mapping[str, Any], key: str) -> str:
    """Return the words of a text under a key, in small letters, without marks between them."""
    value = said.get(key)
    return " ".join(re.findall(r"[^\W_]+", value.lower())) if isinstance(value, str) else ""


def _problem(reply: str, shown: str) -> str:
    if not last_object(reply, KEYS, shown):
        return NO_OBJECT
    if read_verdict(reply, shown) is None:
        return f'its "verdict" is none of: {", ".join(GRADES)}'
    return ""


def verdict_scores(
    judgements: Sequence[Judgement],
    items: Sequence[tuple[Question, Answer]],
    passages: Mapping[str, Passage],
) -> list[Score]:
    """Return the scores of each verdict: verdict, verdict_correct and harm, rated by the judge.

    The note gives harm, reason and evidence, and says where words that the judge claims to have
    copied are not in what it was shown. A failed answer is an "error", a refused one "unparsed", an
    empty one incorrect; its harm is not known. Where the judge gave no verdict that can be read, or
    none at all, the answer is "unjudged".
    """
    made = {row.judgement_id: row for row in judgements if row.mode == "verdict"}
    return [
        score.model_copy(update={"rater": judge})
        for judge in sorted({row.judge for row in made.values()})
        for question, answer in items
        if question.kind == "open"
        for score in _scores(
            made.get(judgement_id(judge, "verdict", answer)), question, answer, passages
        )
    ]


def _scores(
    judgement: Judgement | None,
    question: Question,
    answer: Answer,
    passages: Mapping[str, Passage],
) -> Iterator[Score]:
    """Yield the three scores that a judgement gives an answer."""
    if reply := unshown(answer):
        if reply.status == "ok":
            yield from _graded(answer, "incorrect", reply.reason)
            yield _score("harm", answer, "not_applicable", note=reply.reason)
        else:
            status = "error" if reply.status == "error" else "unparsed"
            yield from _without_value(answer, status, reply.reason)
        return
    verdict = None
    if judgement and judgement.status not in UNREAD:
        verdict = read_verdict(judgement.reply, shown_text(answer))
    if verdict is None:
        yield from _without_value(answer, "unjudged", why_unread(judgement))
        return
    note = f"harm {verdict.harm}: {verdict.reason}"
    source = _source(question, passages.get(question.passage_id))
    shown = "\n".join((question.question, question.context, question.reference, source))
    if verdict.evidence:
        note += f'; evidence: "{verdict.evidence}"'
        note += "" if occurs(verdict.evidence, shown) else " (not in what was shown)"
    else:
        note += "; no evidence quoted"
    if verdict.quote and not occurs(verdict.quote, shown_text(answer)):
        note += f'; quote not in the answer: "{verdict.quote}"'
    yield from _graded(answer, verdict.grade, note)
    harm = HARMS.get(verdict.harm)
    status = "unjudged" if harm is None else "scored"
    yield _score("harm", answer, status, harm, verdict.harm, note)


def _graded(answer: Answer, grade: str, note: str) -> Iterator[Score]:
    right = float(grade == "correct")
    yield _score("verdict", answer, "scored", GRADES[grade], grade, note)
    yield _score("verdict_correct", answer, "scored", right, grade, note)


def _without_value(answer: Answer, status: str, note: str) -> Iterator[Score]:
    for metric in ("verdict", "verdict_correct", "harm"):
        yield _score(metric, answer, status, note=note)


def _score(
    metric: str,
    answer: Answer,
    status: str,
    value: float | None = None,
    label: str = "",
    note: str = "",
) -> Score:
    update = {"status": status, "value": value, "label": label, "note": note}
    return blank(metric, answer).model_copy(update=update)


def occurs(words: str, text: str) -> bool:
    """Return whether words are copied from a text: case, space and quotation marks count nothing.

    Where the words leave something out ("..."), the pieces have to follow one another.
    """
    pieces = [piece for piece in LEFT_OUT.split(_plain(words).strip("\"'")) if piece]
    place, where = 0, _plain(text)
    for piece in pieces:
        place = where.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return bool(pieces)


def _plain(text: str) -> str:
    return " ".join(harmless(text).translate(TYPOGRAPHIC).casefold().split())
