"""Key facts: listed once for each reference, looked for in every answer, counted.

After the answer nuggets of TREC (Voorhees 2003) and FActScore's atomic facts (Min et al. 2023,
arXiv 2305.14251), turned to recall: the facts are the reference's, not the answer's.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from ecg_llm.citing import abstains, claims
from ecg_llm.config import Facts
from ecg_llm.contracts import ChatModel, Decoding, Message, Progress, Reply
from ecg_llm.contradiction import lacking
from ecg_llm.prompt import one_line, quoted, render
from ecg_llm.records import Answer, Judgement, KeyFacts, Question, Score
from ecg_llm.score.asking import (
    Heard,
    Request,
    fence,
    filled,
    hear,
    judgement_id,
    last_object,
    shown_text,
    unchanged,
    unshown,
    why_unread,
)
from ecg_llm.score.overlap import Item, blank, comparable
from ecg_llm.words import stems

NAME = "facts"
"""The judge of these judgements and the rater of these scores."""
METRICS = ("fact_recall", "facts_contradicted")
SAID = ("stated", "missing", "contradicted")
MOST = 12
"""Facts of one reference."""
LENGTH = 300
"""Characters of a fact."""
ABSTAINED = "only says that the literature does not answer, not shown to the judge"
TOLD = 3
"""Facts that a note quotes."""
TOLD_LENGTH = 120
"""Characters of each."""
LIST_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"facts": {"type": "array", "items": {"type": "string"}}},
    "required": ["facts"],
    "additionalProperties": False,
}


def list_facts(
    model: ChatModel,
    questions: Sequence[Question],
    settings: Facts,
    seed: int,
    done: Collection[str] = (),
    progress: Progress = lambda done, total: None,
    former: Sequence[KeyFacts] = (),
) -> Iterator[KeyFacts]:
    """Yield the facts of the reference of each open question that has one, as the replies come.

    The model sees question and reference, not the passage behind them: what only the passage says,
    an answer as good as the reference would be found to lack. A reply that could not be read twice
    is a row without facts; its reason says why. `done` holds the question_ids that need no row,
    `former` rows to yield again where the request is the same.

    Raises:
        ServerError: the model cannot be reached; what was yielded before is good.
    """
    of = {question.question_id: question for question in questions}
    requests = list_requests(questions)
    kept = unchanged(former, requests, model)
    yield from (row for name, row in kept.items() if name not in done)
    requests = [request for request in requests if request.row_id not in kept]
    for heard in hear(model, requests, decoding(settings, seed), done, progress):
        facts = read_facts(heard.reply.text, of[heard.row_id])
        yield filled(KeyFacts(question_id=heard.row_id, facts=facts), heard, model.name)


def list_requests(questions: Sequence[Question]) -> list[Request]:
    """Return what a model is asked for the facts of the references of open questions."""
    return [
        Request(
            question.question_id,
            list_messages(question),
            LIST_SCHEMA,
            partial(_list_problem, question),
        )
        for question in sorted(questions, key=lambda question: question.key)
        if question.kind == "open" and question.reference.strip()
    ]


def list_messages(question: Question) -> list[Message]:
    """Return the chat that asks for the facts of a question's reference."""
    values = {
        "question": _asked(question),
        "reference": quoted(question.reference),
        "most": str(MOST),
        "length": str(LENGTH),
    }
    return [{"role": "user", "content": render("list_facts", values)}]


def read_facts(reply: str, question: Question) -> tuple[str, ...]:
    """Return the facts that the last JSON object of a reply lists, equal ones once.

    Empty: there is no such object, or its facts are too many, too long, share no word with the
    reference or the question, or hold a number, lead or the like that neither has.
    """
    return () if _list_problem(question, reply) else tuple(_listed(reply))


def _listed(reply: str) -> list[str]:
    listed = last_object(reply, frozenset({"facts"})).get("facts")
    if not isinstance(listed, list) or not all(isinstance(fact, str) for fact in listed):
        return []
    unique: dict[str, str] = {}
    for fact in map(one_line, listed):
        unique.setdefault(fact.casefold().rstrip(".! "), fact)
    return list(unique.values())


def _list_problem(question: Question, reply: str) -> str:
    facts = _listed(reply)
    if not facts:
        return (
            'it holds no JSON object with a list of sentences under "facts", or ones that disagree '
            "or break off"
        )
    if len(facts) > MOST:
        return f"it lists {len(facts)} facts, more than {MOST}"
    for fact in facts:
        if not re.search(r"[^\W\d_]", fact):
            return "it lists a fact without words"
        if len(fact) > LENGTH:
            return f"a fact has more than {LENGTH} characters"
        # A fact that stands by itself may repeat the numbers of the question.
        if absent := lacking(fact, question.reference, question.question):
            return f"a fact says {', '.join(absent)}, which the reference does not"
        if not _shares_words(fact, question.reference, _asked(question)):
            return f"a fact shares no word with the reference: {fact[:TOLD_LENGTH]!r}"
    return ""


def _shares_words(fact: str, *texts: str) -> bool:
    """Return whether one of the texts holds a content word of a fact, numbers apart."""
    held = frozenset[str]().union(*map(stems, texts))
    return any(not stem[0].isdigit() for stem in stems(fact) & held)


def check_facts(
    model: ChatModel,
    items: Sequence[tuple[Question, Answer]],
    facts: Mapping[str, KeyFacts],
    settings: Facts,
    seed: int,
    done: Collection[str] = (),
    progress: Progress = lambda done, total: None,
    former: Sequence[Judgement] = (),
) -> Iterator[Judgement]:
    """Yield what each answer says of the facts of its reference, one answer a request.

    `facts` are by question_id; answers to questions without any give nothing. The model sees the
    answer without citation keys, never the arm. Answers that failed, were refused, are empty or
    only abstain are not sent; their rows say so. `done` holds the judgement_ids that need no row,
    `former` rows to yield again where the request is the same.

    Raises:
        ServerError: the model cannot be reached; what was yielded before is good.
    """
    of: dict[str, Answer] = {}
    for question, answer in sorted(items, key=lambda item: item[1].key):
        if _facts_of(question, facts):
            made = judgement_id(NAME, "facts", answer)
            of[made] = answer
            reply = _unsent(answer)
            if reply and made not in done:
                yield _judgement(answer, Heard(made, "", reply, ""), model.name)
    requests = check_requests(items, facts)
    kept = unchanged(former, requests, model)
    yield from (row for name, row in kept.items() if name not in done)
    requests = [request for request in requests if request.row_id not in kept]
    for heard in hear(model, requests, decoding(settings, seed), done, progress):
        yield _judgement(of[heard.row_id], heard, model.name)


def check_requests(
    items: Sequence[tuple[Question, Answer]], facts: Mapping[str, KeyFacts]
) -> list[Request]:
    """Return what a model is asked about answers whose references have facts."""
    requests = []
    for question, answer in sorted(items, key=lambda item: item[1].key):
        listed = _facts_of(question, facts)
        if listed and not _unsent(answer):
            made = judgement_id(NAME, "facts", answer)
            messages = check_messages(question, answer, listed)
            problem = partial(_check_problem, len(listed), shown_text(answer))
            requests.append(Request(made, messages, _check_schema(len(listed)), problem))
    return requests


def _facts_of(question: Question, facts: Mapping[str, KeyFacts]) -> tuple[str, ...]:
    row = facts.get(question.question_id)
    return row.facts if row else ()


def _unsent(answer: Answer) -> Reply | None:
    """Return what stands for the model's reply to an answer that it need not see, if it is one."""
    only_abstains = abstains(answer.text) and not claims(answer.text, 0)
    return unshown(answer) or (Reply("", "ok", ABSTAINED) if only_abstains else None)


def _judgement(answer: Answer, heard: Heard, model: str) -> Judgement:
    row = Judgement(
        judgement_id=heard.row_id,
        judge=NAME,
        question_id=answer.question_id,
        mode="facts",
        order=(answer.arm,),
        repeat=answer.repeat,
    )
    return filled(row, heard, model)


def check_messages(question: Question, answer: Answer, facts: Sequence[str]) -> list[Message]:
    """Return the chat that asks which of these facts an answer states.

    The answer stands between two lines that its author could not foresee.
    """
    text = shown_text(answer)
    numbered = [f"{number}. {one_line(fact)}" for number, fact in enumerate(facts, start=1)]
    values = {
        "question": _asked(question),
        "facts": quoted("\n".join(numbered)),
        "answer": text,
        "fence": fence(question.question_id, text),
        "form": json.dumps(dict.fromkeys(_numbers(len(facts)), "...")),
    }
    return [{"role": "user", "content": render("check_facts", values)}]


def _asked(question: Question) -> str:
    return quoted("\n\n".join(filter(None, (question.question, question.context))))


def decoding(settings: Facts, seed: int) -> Decoding:
    """Return how the replies are sampled."""
    return Decoding(settings.max_tokens, settings.temperature, seed=seed)


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _check_schema(count: int) -> dict[str, object]:
    said = {"type": "string", "enum": list(SAID)}
    return {
        "type": "object",
        "properties": dict.fromkeys(_numbers(count), said),
        "required": _numbers(count),
        "additionalProperties": False,
    }


def read_check(reply: str, count: int, shown: str) -> tuple[str, ...]:
    """Return what a reply says of each of `count` facts, in their order; empty: not readable.

    The last JSON object of the reply has a key for the number of each fact and of no other, or a
    list with one word a fact under "facts". One copied from the answer `shown` is not believed.
    """
    last = last_object(reply, {"facts", *_numbers(count)}, shown)
    listed = last.get("facts", last)
    if isinstance(listed, dict):
        numbered = {key.strip(): said for key, said in listed.items() if key.strip().isdecimal()}
        listed = [numbered.get(number) for number in _numbers(max(count, len(numbered)))]
    if not isinstance(listed, list) or len(listed) != count:
        return ()
    found = tuple(str(said).strip(" .").lower() for said in listed)
    return found if set(found) <= set(SAID) else ()


def _check_problem(count: int, shown: str, reply: str) -> str:
    if read_check(reply, count, shown):
        return ""
    return (
        f"it holds no JSON object of its own that says one of {', '.join(SAID)} for each number "
        f"from 1 to {count}, or ones that disagree or break off"
    )


def fact_scores(
    judgements: Sequence[Judgement],
    facts: Mapping[str, KeyFacts],
    items: Sequence[tuple[Question, Answer]],
) -> list[Score]:
    """Return, for every answer to an open question, the shares of facts stated and contradicted.

    The shares are of all facts of the reference; the note quotes some that are not stated. An empty
    answer and one that only abstains state none. A question without a reference is "not_applicable"
    and one whose facts could not be listed "unjudged" for all its answers, whatever became of them;
    else a failed answer scores "error", a refused one "unparsed", and one for which the model gave
    no reply that can be read "unjudged".
    """
    by_id = {made.judgement_id: made for made in judgements if made.mode == "facts"}
    scores: list[Score] = []
    asked = []
    for question, answer in items:
        if _facts_of(question, facts):
            asked.append((question, answer))
        elif question.kind == "open":
            update = {"status": "not_applicable", "note": "no reference"}
            if question.reference.strip():
                why = _why_unlisted(facts.get(question.question_id))
                update = {"status": "unjudged", "note": f"no key facts: {why}"}
            scores += [blank(metric, answer).model_copy(update=update) for metric in METRICS]
    found, others = comparable(METRICS, asked)
    scores += others
    for item in found:
        listed = facts[item.answer.question_id].facts
        scores += _counted(item, by_id.get(judgement_id(NAME, "facts", item.answer)), listed)
    return [score.model_copy(update={"rater": NAME}) for score in scores]


def _why_unlisted(row: KeyFacts | None) -> str:
    if row is None:
        return "they were not listed"
    again = "; `ecg-llm run --retry` asks for them again" if row.status == "error" else ""
    return f"{row.reason}{again}"


def _counted(item: Item, made: Judgement | None, facts: Sequence[str]) -> list[Score]:
    """Return the scores of an answer that could be compared with the facts."""
    found = read_check(made.reply, len(facts), shown_text(item.answer)) if made else ()
    if _unsent(item.answer):
        found = ("missing",) * len(facts)
    if not found:
        update = {"status": "unjudged", "note": why_unread(made)}
        return [blank(metric, item.answer).model_copy(update=update) for metric in METRICS]
    return [
        item.scored("fact_recall", *_share("stated", found, facts, SAID[1:])),
        item.scored("facts_contradicted", *_share("contradicted", found, facts, SAID[2:])),
    ]


def _share(
    counted: str, found: Sequence[str], facts: Sequence[str], quotes: Sequence[str]
) -> tuple[float, str]:
    """Return the share of facts found to be this, and a note that quotes some found to be those."""
    number = found.count(counted)
    told = [
        f"{said}: {fact[:TOLD_LENGTH]!r}"
        for word in quotes
        for fact, said in zip(facts, found, strict=True)
        if said == word
    ]
    return number / len(facts), "; ".join([f"{number} of {len(facts)}", *told[:TOLD]])
