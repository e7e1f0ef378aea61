"""Drafts to questions: every question is kept, or dropped with the reason of the failed check."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.config import Questions
from ecg_llm.questions.generate import UnparsedReply, Written, parse
from ecg_llm.questions.words import (
    NUMBER,
    NearIndex,
    correct_option,
    language_of,
    plain_number,
    plain_text,
    quoted_span,
    support,
)
from ecg_llm.records import LETTERS, Draft, Passage, Question, digest

SET = "written"
OPTIONS = 4
QUESTION_WORDS = (3, 120)
"""Fewest and most words of a question."""
ANSWER_WORDS = (1, 150)
OPTION_WORDS = (1, 60)
SUPPORT = 0.5
"""Least share of the answer's content words that the window must hold."""

NOT_SELF_CONTAINED = re.compile(
    r"\b(?:(?:this|that|these|the (?:present|current|cited|above|presented|described|reported))"
    r" (?:stud(?:y|ies)|trial|paper|article|review|report|work|survey)"
    r"|(?:in|of|by|from|to) the (?:stud(?:y|ies)|authors?|article|text|passage|excerpt)"
    r"|the (?:study|authors?|passage|excerpt)\b(?!['’]?s? (?:of|group))"
    r"|this (?:chapter|section|text|passage|document|guideline|figure|table|handbook)"
    r"|(?:the|in|see) (?:figure|fig\.|table|box|panel|chapter|section|equation)s? ?\d"
    r"|the (?:figure|table|chapter) (?:above|below|shown)"
    r"|(?:figure|fig\.|table|abbildung|abb\.|tabelle|tab\.) ?\d+"
    r"|(?:mentioned|described|listed|shown|discussed|outlined) (?:above|below|here|earlier)"
    r"|(?:above|below|previously|afore)[- ]?mentioned"
    r"|according to the (?:text|passage|article|authors?|chapter|document|guidelines?)\b"
    r"|(?:dieser|diese|dieses|diesem|der vorliegenden|die vorliegende) "
    r"(?:studie|arbeit|artikel|kapitel|abschnitt|text|abbildung|tabelle|patient\w*|untersuchung)"
    r"|(?:laut|gemäß|im|aus dem) (?:dem )?(?:text|artikel|kapitel|abschnitt)"
    r"|(?:den|der|die) autoren|(?:oben|unten) (?:genannt|erwähnt|gezeigt|beschrieben)\w*)",
    re.IGNORECASE,
)
POINTS_AT_PATIENT = re.compile(
    r"\b(?:(?:this|these|that|those) (?:patients?|m[ae]n|wom[ae]n|child|infant|cases?|cohort)"
    r"|(?:dieser?|diesem|diesen) patient\w*)\b",
    re.IGNORECASE,
)
INTRODUCES_PATIENT = re.compile(
    r"\b(?:an?|one|two|eine?|einem|einer|einen)\b[^.?!]*\b(?:patient\w*|m[ae]n|wom[ae]n|boy|girl"
    r"|child|adult|infant|athlete|person|people|\w+-old|mann|frau|kind|\w+[-ä]jährige\w*)\b",
    re.IGNORECASE,
)
NOT_MEDICAL = re.compile(
    r"\b(?:who (?:wrote|edited|published)|(?:which|what) (?:journal|publisher|edition|page|chapter)"
    r"|corresponding author|first author|published|publication (?:date|year)|doi|isbn|copyright"
    r"|licen[cs]e|acknowledge?ments?|funding|how many (?:references|pages|figures|tables|authors)"
    r"|(?:title|subject|purpose|structure|outline) of the (?:text|book|chapter|article|section)"
    r"|welche(?:s|r|n)? (?:zeitschrift|verlag|auflage|kapitel|seite)|wer (?:schrieb|verfasste)"
    r"|literaturverzeichnis)\b",
    re.IGNORECASE,
)
REFERS_TO_OPTIONS = re.compile(
    r"\b(?:all|none|both|neither|any|some|two|each) (?:of )?(?:the |these |those )?"
    r"(?:above|options?|answers?|other options|choices|preceding|statements)\b"
    r"|\b(?:all|none|both) of (?:these|them)\.?$"
    r"|^(?:both |either |neither )?\(?[a-d]\)?,? (?:and|or|nor) \(?[a-d]\)?\.?$"
    r"|\b(?:alle|keine|beide)[sr]? (?:der |dieser )?(?:genannten|oben\w*|antworten|aussagen)",
    re.IGNORECASE,
)


class Problem(NamedTuple):
    """Why a question is dropped."""

    reason: str
    note: str = ""


def questions(
    drafts: Sequence[Draft], passages: Sequence[Passage], settings: Questions, seed: int
) -> list[Question]:
    """Return one row for every question in the drafts, kept or dropped, in the drafts' order.

    A draft without a readable reply gives one row with reason "unparsed". Evidence is replaced by
    the passage's own characters. Right options are dealt to the letters in turn over the whole set
    of kept questions, so that no letter is more frequent than another by more than one.
    """
    known = {passage.passage_id: passage for passage in passages}
    rows: dict[str, Question] = {}
    for draft in sorted(drafts, key=lambda draft: draft.key):
        window = [known[name] for name in draft.passage_ids if name in known]
        for row in _rows(draft, window, settings):
            if row.question_id in rows:
                problem = Problem("duplicate", f"same as {row.question_id}")
                row_id = digest(row.question_id, draft.draft_id, len(rows))
                row = dropped(row, problem).model_copy(update={"question_id": row_id})
            rows[row.question_id] = row
    return balanced(without_duplicates(list(rows.values())), seed)


def dropped(row: Question, problem: Problem) -> Question:
    """Return this question as a dropped one."""
    return row.model_copy(
        update={"status": "dropped", "reason": problem.reason, "note": problem.note}
    )


def _rows(draft: Draft, window: Sequence[Passage], settings: Questions) -> Iterator[Question]:
    """Yield the questions of one draft, options in the writer's order, the right one first."""
    if draft.status != "ok":
        yield _unparsed(draft, window, 0, f"{draft.status}: {draft.reason}".rstrip(": "))
        return
    try:
        items = parse(draft.reply)
    except UnparsedReply as error:
        yield _unparsed(draft, window, 0, "; ".join(filter(None, (str(error), draft.reason))))
        return
    for number, item in enumerate(items):
        if isinstance(item, str):
            yield _unparsed(draft, window, number, item)
        else:
            yield _checked(draft, window, item, settings)


def _unparsed(draft: Draft, window: Sequence[Passage], number: int, note: str) -> Question:
    return Question(
        question_id=digest(SET, "unparsed", draft.draft_id, number),
        set=SET,
        kind=draft.kind,
        question="",
        doc_id=window[0].doc_id if window else "",
        status="dropped",
        reason="unparsed",
        note=note,
        generator=draft.model,
    )


def _checked(
    draft: Draft, window: Sequence[Passage], item: Written, settings: Questions
) -> Question:
    question, answer = _tidy(item.question), _tidy(item.answer)
    choice = draft.kind == "choice"
    options = (answer, *map(_tidy, item.distractors)) if choice else ()
    spans = ((quoted_span(item.evidence, passage.text), passage) for passage in window)
    span, passage = next((found for found in spans if found[0]), ("", None))
    passage_id = passage.passage_id if passage else ""
    row = Question(
        question_id=digest(SET, draft.kind, question, options, passage_id or draft.passage_ids),
        set=SET,
        kind=draft.kind,
        question=question,
        options=options,
        answer="A" if choice else "",
        reference=answer,
        evidence=span or item.evidence,
        passage_id=passage_id,
        doc_id=window[0].doc_id if window else "",
        language=language_of(f"{question} {answer}") or _language_wanted(window, settings) or "en",
        generator=draft.model,
    )
    problem = _problem(row, window, settings)
    return dropped(row, problem) if problem else row


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _problem(row: Question, window: Sequence[Passage], settings: Questions) -> Problem | None:
    """Return the first check that a question fails."""
    if row.kind == "choice" and (problem := option_problem(row.options, OPTIONS)):
        return problem
    if problem := _length_problem(row):
        return problem
    for text in (row.question, row.reference, *row.options):
        if found := NOT_SELF_CONTAINED.search(text):
            return Problem("not_self_contained", found.group())
    found = POINTS_AT_PATIENT.search(row.question)
    if found and not INTRODUCES_PATIENT.search(row.question[: found.start()]):
        return Problem("not_self_contained", found.group())
    if found := NOT_MEDICAL.search(row.question):
        return Problem("not_medical", found.group())
    wanted, is_in = _language_wanted(window, settings), language_of(row.question)
    if wanted and is_in and is_in != wanted:
        return Problem("wrong_language", f"{is_in}, not {wanted}")
    if not row.passage_id:
        return Problem("no_evidence")
    return _grounding_problem(row, window)


def option_problem(options: Sequence[str], count: int | None = None) -> Problem | None:
    """Return what is wrong with the options of a question; `count` is how many it must have."""
    if len(options) < 2 or (count is not None and len(options) != count):
        return Problem("option_count", f"{len(options)} options")
    plain = Counter(plain_text(option) for option in options)
    if len(plain) < len(options):
        return Problem("duplicate_options", plain.most_common(1)[0][0])
    if count is not None:
        for option in options:
            if REFERS_TO_OPTIONS.search(option):
                return Problem("all_of_the_above", option)
    return None


def _length_problem(row: Question) -> Problem | None:
    limits = [("question", row.question, QUESTION_WORDS)]
    if row.kind == "choice":
        limits += [("an option", option, OPTION_WORDS) for option in row.options]
    else:
        limits.append(("the answer", row.reference, ANSWER_WORDS))
    for name, text, (fewest, most) in limits:
        count = len(text.split())
        if count < fewest:
            return Problem("too_short", f"{name} has {count} words")
        if count > most:
            return Problem("too_long", f"{name} has {count} words")
    return None


def _grounding_problem(row: Question, window: Sequence[Passage]) -> Problem | None:
    """Check the answer's numbers and words against the window that the writer saw."""
    text = " ".join(part for p in window for part in (p.section, p.text))
    missing = {plain_number(n) for n in NUMBER.findall(row.reference)} - {
        plain_number(n) for n in NUMBER.findall(f"{text} {row.question}")
    }
    if missing:
        return Problem("not_grounded", f"numbers not in the text: {', '.join(sorted(missing))}")
    if language_of(row.reference or row.question) not in ("", language_of(text)):
        return None  # a translated answer shares no words with its source
    share = support(row.reference, f"{text} {row.question}")
    if share < SUPPORT:
        return Problem("not_grounded", f"{share:.0%} of the answer's words are in the text")
    return None


def _language_wanted(window: Sequence[Passage], settings: Questions) -> str:
    if settings.language != "text":
        return settings.language
    return language_of(" ".join(passage.text for passage in window))


def without_duplicates(rows: Sequence[Question]) -> list[Question]:
    """Return the rows with every later kept one dropped that says what an earlier one says.

    Questions are compared with those of their own kind: an open question and a choice question
    about one fact are both of use.
    """
    kept = [row for row in rows if row.status == "kept"]
    twins: dict[str, str] = {}
    for kind in ("open", "choice"):
        members = [row for row in kept if row.kind == kind]
        index = NearIndex()
        for row in members:
            if twin := index.find(row):
                twins[row.question_id] = twin
            else:
                index.add(row)
    return [
        dropped(row, Problem("duplicate", f"same as {twins[row.question_id]}"))
        if row.question_id in twins
        else row
        for row in rows
    ]


def balanced(rows: Sequence[Question], seed: int) -> list[Question]:
    """Return the rows with the options of the kept choice questions shuffled.

    Letters are dealt in turn to the questions in an order drawn from the seed, so that the counts
    of the letters differ by at most one (for each number of options).
    """
    decks: Mapping[int, list[Question]] = defaultdict(list)
    for row in rows:
        if row.kind == "choice" and row.status == "kept":
            decks[len(row.options)].append(row)
    shuffled: dict[str, Question] = {}
    for count, members in decks.items():
        rng = random.Random(f"{seed} {count}")
        order = sorted(members, key=lambda row: row.question_id)
        rng.shuffle(order)
        for number, row in enumerate(order):
            place = number % count
            right = correct_option(row)
            others = [option for option in row.options if option != right]
            rng.shuffle(others)
            options = (*others[:place], right, *others[place:])
            shuffled[row.question_id] = row.model_copy(
                update={"options": options, "answer": LETTERS[place]}
            )
    return [shuffled.get(row.question_id, row) for row in rows]


def letter_balance(rows: Sequence[Question]) -> dict[str, int]:
    """Return how often each letter is the right one among the kept choice questions."""
    counts = Counter(row.answer for row in rows if row.kind == "choice" and row.status == "kept")
    return dict(sorted(counts.items()))


def longest_key_z(rows: Sequence[Question]) -> float:
    """Return how many standard errors more often than by chance the right option is the longest.

    Chance is one in the number of options; ties for the longest count in parts. Above 2 the
    length gives answers away. 0 if there is no choice question.
    """
    excess = variance = 0.0
    for row in rows:
        if row.kind != "choice" or row.status != "kept" or len(row.options) < 2:
            continue
        lengths = [len(option) for option in row.options]
        longest = max(lengths)
        hit = len(correct_option(row)) == longest
        chance = 1 / len(lengths)
        excess += (1 / lengths.count(longest) if hit else 0.0) - chance
        variance += chance * (1 - chance)
    return excess / math.sqrt(variance) if variance else 0.0
