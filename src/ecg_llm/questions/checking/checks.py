"""What a checking model says of written questions: is the answer right, is it given away.

Three passes, each reply a row. "grounded" shows the source: is the answer supported by it, and no
other? "closed_book" shows a choice question without the source, "options_only" its options without
the question, both in every rotation of the options, so that a preference for a letter solves
nothing. An open question has no closed-book pass: to mark its answer would take a judge.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from ecg_llm.config import Questions
from ecg_llm.contracts import ChatModel, Decoding, Message, Progress, Reply
from ecg_llm.prompt import (
    lettered,
    original_letter,
    prompt_sha,
    quoted,
    render,
    rotated,
    without_fence,
)
from ecg_llm.questions.checking.verify import Problem, dropped
from ecg_llm.questions.words import correct_option
from ecg_llm.questions.writing.generate import window_text
from ecg_llm.records import LETTERS, Check, CheckName, Passage, Question

VERDICTS = ("supported", "unsupported", "ambiguous")
FLAGS: Mapping[CheckName, str] = {
    "closed_book": "solved_closed_book",
    "options_only": "solved_options_only",
}
"""The passes that look for the right letter, and the flag of a question they solve."""
CHOICE_SUPPORTED = " None of the other options is right by the text."
CHOICE_AMBIGUOUS = " So is a question with another option that is right by the text."


class Asked(NamedTuple):
    """One prompt of one pass."""

    row: Question
    check: CheckName
    permutation: int
    messages: list[Message]


class PassRate(NamedTuple):
    """How often one pass found what it looked for, over all its readable replies."""

    check: CheckName
    share: float
    """Of "supported" verdicts, or of right letters."""
    n: int
    chance: float | None
    """What guessing gives; None for verdicts."""
    unreadable: int
    """Replies that failed or are not in the form asked for."""


def checks(
    questions: Sequence[Question],
    passages: Sequence[Passage],
    model: ChatModel,
    settings: Questions,
    decoding: Decoding,
    done: Collection[tuple[Any, ...]] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Check]:
    """Yield the model's replies about every kept question, as they come.

    `settings.checks.passes` says which passes; `done` holds the keys of rows that need not be made
    again. A reply that failed or cannot be read is a row as well.

    Raises:
        ServerError: the model cannot be reached; what was yielded before is good.
    """
    known = {passage.passage_id: passage for passage in passages}
    asked = [
        prompt
        for row in questions
        if row.status == "kept"
        for check in settings.checks.passes
        for prompt in _asked(row, check, known)
    ]
    left = [a for a in asked if (a.row.question_id, a.check, a.permutation) not in done]
    forms = [schema(prompt.check, len(prompt.row.options)) for prompt in left]
    replies = model.replies([prompt.messages for prompt in left], decoding, forms)
    for made, (place, reply) in enumerate(replies, start=len(asked) - len(left) + 1):
        yield _check(left[place], reply, model.name)
        progress(made, len(asked))


def _asked(row: Question, check: CheckName, known: Mapping[str, Passage]) -> Iterator[Asked]:
    if check == "grounded":
        yield Asked(row, check, 0, _grounded_messages(row, known))
        return
    for permutation in range(len(row.options)):
        values = {"options": quoted(lettered(shown(row, permutation)))}
        if check == "closed_book":
            values["question"] = quoted(row.question)
        text = render(f"check_{check}", values)
        yield Asked(row, check, permutation, [Message(role="user", content=text)])


def _grounded_messages(row: Question, known: Mapping[str, Passage]) -> list[Message]:
    names = dict.fromkeys((row.passage_id, *(span.passage_id for span in row.joined)))
    answer, options = row.reference, ""
    if row.kind == "choice":
        listed = lettered(shown(row))
        answer = listed.split("\n")[shown(row).index(correct_option(row))]
        options = f"\n{quoted(listed)}\n"
    source = window_text([known[name] for name in names if name in known])
    values = {
        "text": source,
        "question": quoted(row.question),
        "options": options,
        "answer": quoted(answer),
        "supported": CHOICE_SUPPORTED if row.kind == "choice" else "",
        "ambiguous": CHOICE_AMBIGUOUS if row.kind == "choice" else "",
    }
    return [Message(role="user", content=render("check_grounded", values))]


def shown(row: Question, permutation: int = 0) -> tuple[str, ...]:
    """Return the options as a pass shows them: in the order of their text, then rotated.

    Their own order, which balances the letters over the whole set, changes when a document is
    added; prompts that do not follow it stay in the reply cache.
    """
    return rotated(sorted(row.options), permutation)


def schema(check: CheckName, options: int) -> dict[str, object]:
    """Return the JSON schema of a reply to this pass about a question with so many options."""
    fields: dict[str, object] = {"answer": {"type": "string", "enum": list(LETTERS[:options])}}
    if check == "grounded":  # the reason comes first, so that the verdict follows from it
        fields = {"why": {"type": "string"}, "verdict": {"type": "string", "enum": list(VERDICTS)}}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def _check(asked: Asked, reply: Reply, model: str) -> Check:
    return Check(
        question_id=asked.row.question_id,
        check=asked.check,
        permutation=asked.permutation,
        reply=reply.text,
        status=reply.status,
        reason=reply.reason,
        model=model,
        prompt_sha=prompt_sha(asked.messages),
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )


def _object(check: Check) -> dict[str, Any]:
    """Return the JSON object that a reply is, one code fence taken off; empty if it is none."""
    try:
        value = json.loads(without_fence(check.reply)) if check.status == "ok" else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_verdict(check: Check) -> tuple[str, str]:
    """Return the verdict of a grounded pass and why; ("", "") if the reply is unreadable."""
    found = _object(check)
    verdict = str(found.get("verdict", "")).strip().lower()
    return (verdict, str(found.get("why", "")).strip()) if verdict in VERDICTS else ("", "")


def read_option(check: Check, row: Question) -> str:
    """Return the text of the option that a reply names; "" if the reply is unreadable."""
    letter = str(_object(check).get("answer", "")).strip().upper()
    if len(letter) != 1 or letter not in LETTERS[: len(row.options)]:
        return ""
    place = original_letter(letter, check.permutation, len(row.options))
    return shown(row)[LETTERS.index(place)]


def applied(questions: Sequence[Question], checks: Sequence[Check]) -> list[Question]:
    """Return the questions with what the checks say of them.

    A question whose answer is not found "supported" is dropped as "not_confirmed". Others are
    flagged: "solved_closed_book" and "solved_options_only" if every rotation is answered right,
    "unchecked" if a reply is missing or unreadable. Without any check nothing changes.
    """
    of: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        of[check.question_id].append(check)
    passes = {check.check for check in checks}
    return [
        _applied(row, of[row.question_id], passes) if passes and row.status == "kept" else row
        for row in questions
    ]


def _applied(row: Question, made: Sequence[Check], passes: Collection[CheckName]) -> Question:
    by_pass: dict[CheckName, dict[int, Check]] = defaultdict(dict)
    for check in made:
        by_pass[check.check][check.permutation] = check
    flags = set(row.flags)
    if "grounded" in passes:
        grounded = by_pass["grounded"].get(0)
        verdict, why = read_verdict(grounded) if grounded else ("", "")
        if not verdict:
            flags.add("unchecked")
        elif verdict != "supported":
            return dropped(row, Problem("not_confirmed", f"{verdict}: {why}".rstrip(": ")))
    right = correct_option(row)
    for name, flag in FLAGS.items():
        if name not in passes or not row.options:
            continue
        replies = by_pass[name]
        found = [read_option(check, row) for check in replies.values()]
        if len(found) < len(row.options) or not all(found):
            flags.add("unchecked")
        elif all(option == right for option in found):
            flags.add(flag)
    return row.model_copy(update={"flags": tuple(sorted(flags))})


def pass_rates(questions: Sequence[Question], checks: Sequence[Check]) -> list[PassRate]:
    """Return, for every pass made, how often it found what it looked for.

    Single replies count, so that chance is one in the number of options. Replies about questions
    that are not given, or that a person has revised since, are left out.
    """
    rows = {row.question_id: row for row in questions if not row.revision}
    rates = []
    for name in get_args(CheckName):
        hits: list[bool] = []
        chances: list[float] = []
        unreadable = 0
        for check in checks:
            row = rows.get(check.question_id)
            if check.check != name or row is None:
                continue
            if name == "grounded":
                found, wanted = read_verdict(check)[0], "supported"
            else:
                found, wanted = read_option(check, row), correct_option(row)
                chances.append(1 / len(row.options))
            if found:
                hits.append(found == wanted)
            else:
                unreadable += 1
        if hits or unreadable:
            chance = sum(chances) / len(chances) if chances else None
            share = sum(hits) / len(hits) if hits else 0.0
            rates.append(PassRate(name, share, len(hits), chance, unreadable))
    return rates
