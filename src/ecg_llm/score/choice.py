"""Replies to multiple-choice questions to letters, and letters and likelihoods to scores."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ecg_llm.contracts import UsageError
from ecg_llm.prompt import original_letter, rotated
from ecg_llm.records import LETTERS, Answer, Question, Score
from ecg_llm.registry import suggestion
from ecg_llm.score.overlap import blank

PARSERS = ("strict", "tolerant")
"""strict: the sentence asked for, or the bare letter. tolerant: whatever a careful reader
would take for the answer, and nothing that such a reader would not."""


class Choice(NamedTuple):
    """The letter a reply gives, or None, and the parser that read it (or failed last)."""

    letter: str | None
    parser: str


def parse(text: str, options: Sequence[str], parser: str = "tolerant") -> Choice:
    """Return the option that a reply chooses among `options`, as they were shown.

    The tolerant parser tries the strict one first and names the one that succeeded, so that
    the notes of the scores show how often an arm kept to the form. It reads, in this order: a
    JSON answer; a stated answer ("the answer is B", "Antwort B", "B is correct", a first line
    that starts with the letter), given by letter or by the option's words; a letter that ends
    the reply; an option's words that open or end a short one. A reply that states two answers
    has none, unless the last is marked as the conclusion ("final answer", "therefore"). Where
    letter and words disagree the letter counts, since it was asked for.

    Raises:
        UsageError: there is no parser of this name.
    """
    if parser not in PARSERS:
        raise UsageError(f"There is no parser named {parser!r}{suggestion(parser, PARSERS)}")
    strict = _STRICT.fullmatch(text.strip())
    if strict or parser == "strict":
        return Choice(_among(strict.group(1) if strict else "", options), "strict")
    reply, words = _clean(text), _option_words(tuple(options))
    for said in (_json_answer(reply), reply):
        marked = _marked(said, words)
        for rule in (_stated, _ending, _worded):
            if letters := rule(marked):
                return Choice(_among(letters, options), "tolerant")
    return Choice(None, "tolerant")


_STRICT = re.compile(r"(?:The correct answer is )?([A-Z])\.?")


def _among(letters: str, options: Sequence[str]) -> str | None:
    """Return the one letter that is left, if it is that of an option."""
    return letters if len(letters) == 1 and letters in LETTERS[: len(options)] else None


# What stands around an answer but is no part of it: (pattern, replacement), applied in order.
_NOISE = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", ""),
        (r"\A.*</think(?:ing)?>", ""),
        (r"<answer>(.*?)(?:</answer>|\Z)", r"\nFinal answer: \1\n"),
        (r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1"),
        (r"\\boxed\s*\{([^{}]*)\}", r"\nFinal answer: \1\n"),
        (r"</?[a-z|][^<>\n]{0,30}>|\\[()\[\]]|[*`$«»\u200b-\u200d\ufeff]|__", ""),
        (r"(?<!\w)_|_(?!\w)|(?:\A|(?<=\n))[#>]+", ""),
        (r"\A\s*assistant\b:?", ""),
        (r"[^\S\n]+", " "),
        (r"\A\s*A: (?=\(?[A-Z]\b\W*\Z)", ""),
        (r" ?\n ?", "\n"),
        # A model that goes on with a question of its own has ended its answer.
        (r"(?<=\S)\n\s*(?:question|frage|user|human)\b ?\d*\s*[:.)].*", ""),
    )
)


def _clean(text: str) -> str:
    """Return the text without thinking, markup and chat tokens, in NFKC."""
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text.strip()


@lru_cache(maxsize=4096)
def _option_words(options: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return (letter, pattern of the option's words), the longest words first."""
    found = []
    for letter, option in zip(LETTERS, options, strict=False):
        words = re.split(r"[\s-]+", _clean(option).rstrip(".!? "))
        # An option that is itself a letter (vitamin "D") cannot be told from a label.
        if not re.fullmatch(r"[A-Za-z]?", "".join(words)):
            pattern = r"(?<!\w)" + r"[\s-]+".join(map(re.escape, words)) + r"(?!\w)"
            found.append((letter, re.compile(pattern, re.IGNORECASE)))
    return tuple(sorted(found, key=lambda item: -len(item[1].pattern)))


# Phrases that the patterns below share.
_NOUN = (
    r"(?:answer|choice|option|solution|response|alternative|letter|diagnosis|"
    r"antwort(?:möglichkeit|option)?|lösung|auswahl|wahl|buchstabe|diagnose)"
)
_BE = (
    r"(?:is|was|are|would be|will be|should be|must be|has to be|seems to be|appears to be|"
    r"remains|ist|wäre|sind|lautet|heißt)"
)
_BEST = r"(?:best|beste|most (?:likely|appropriate|probable|accurate|suitable))"
_CORRECT = rf"(?:correct|right|true|richtige?|korrekte?|zutreffende?|wahr|(?:the )?{_BEST})"
_WRONG = (
    r"(?:not|in\w*correct|wrong|false|unlikely|untrue|impossible|excluded|ruled out|"
    r"nicht|falsch\w*|unwahrscheinlich|ausgeschlossen|kein\w*)"
)
_BECAUSE = r"(?:because|since|as|due|weil|da|denn)"
_LIKELY = (
    r"(?:clearly|definitely|therefore|thus|hence|also|indeed|probably|likely|most likely|simply|"
    r"actually|then|here|in fact|either|both|wahrscheinlich|am ehesten|eindeutig|daher|somit|"
    r"entweder|sowohl)"
)
_FILL = rf"(?:[\s\"'“”„‘’:(]|(?:{_LIKELY}|{_NOUN}|the|an?|der|die|das|eine?)\b){{0,20}}"

# What follows a letter that names an option, as it does not in "A P wave" or "a long PR".
_AFTER_LABEL = re.compile(
    rf"\s*(?:\Z|[)\]}}\n.,;:!?/&+|=–—(])|\s(?:-|{_BECAUSE}\b|{_BE}\b|{_CORRECT}\b|(?:which|and|"
    rf"or|but|not|with|based|und|oder|aber|nicht|stimmt|trifft|die|das|wählen|nehmen|fits|does|can)\b)",
    re.I,
)
_AFTER_SMALL_LABEL = re.compile(
    rf"\s*(?:\Z|[)\]}}\n.,;:!?])|\s(?:{_BECAUSE}|and|or|und|oder|is|ist)\b"
)
_LABEL = re.compile(
    r"(?<![\w'’«.-])[(\[{\"'“„‘]{0,2}([A-Za-z])(?![\w»]|['’.-]\w)(?:\s?[\"'”’]|\s(?=[)\]}]))?"
)
_NAMES = re.compile(
    r"\b(?:type|group|vitamin|hepatitis|stage|class|lead|grade|factor|protein|troponin|influenza|"
    r"typ|gruppe|stadium|klasse|ableitung|faktor) \Z",
    re.I,
)
_LABEL_AND_WORDS = re.compile(r"«([A-Z])»[\s.,:;=)\]–—-]*«([a-z])»")
_LIST = re.compile(
    rf"«(\w+)»\)?\s*(?:(?:,?\s*\b(?:or|oder)\b|/)\s*(?:{_NOUN} )?«(\w+)»|"
    rf"(?:,?\s*\b(?:and|und)\b|[,&+])\s*(?:{_NOUN} )?«(\w+)»"
    # "B, A is wrong" and "B and A is wrong" start a new clause; "A and C are right" is a list.
    r"(?!\)?\s(?:is|ist|was|war|has|hat|would|does|can|could|shows)\b))",
    re.I,
)
_DENIED_BEFORE = re.compile(
    rf"(?:\b(?:not|never|nicht|auf keinen fall|kein\w*|neither|nor|weder|noch|unlike|rather than|"
    rf"(?:incorrect|wrong|false|falsche?)\s{_NOUN}\s{_BE})\b|n['’]t\b)"
    rf"(?:[ :]|\b(?:{_NOUN}|{_BE}|an?|the|choose|select|pick|eine?)\b)*«\w+»",
    re.I,
)
_DENIED_AFTER = re.compile(
    rf"«\w+»[).:,]?\s*(?:{_BE}|do|does|cannot|can|trifft|stimmt|[–—(-])?\s*(?:\w+ )?{_WRONG}\b"
    r"(?:\s(?:correct|right|true|richtig))?",
    re.I,
)


def _marked(reply: str, words: Sequence[tuple[str, re.Pattern[str]]]) -> str:
    """Return the reply with every option named in it as «B» (its letter) or «b» (its words).

    A letter with the option's words is «B»), a list like "A or B" is «AB»; options that the
    reply rejects ("not A", "A is wrong") are left out.
    """
    for letter, pattern in words:
        reply = pattern.sub(f"«{letter.lower()}»", reply)

    def label(found: re.Match[str]) -> str:
        letter, rest = found.group(1), reply[found.end() :]
        if _NAMES.search(reply, max(0, found.start(1) - 12), found.start(1)):
            return found.group()
        after = _AFTER_LABEL if letter.isupper() else _AFTER_SMALL_LABEL
        own = rest.lstrip(" .:)").startswith(f"«{letter.lower()}»")
        return f"«{letter.upper()}»" if own or after.match(rest) else found.group()

    reply = _LABEL.sub(label, reply)
    reply = _LABEL_AND_WORDS.sub(
        lambda both: f"«{both[1]}»)" if both[1].lower() == both[2] else both[0], reply
    )
    joined = ""
    while joined != reply:
        joined, reply = reply, _LIST.sub(lambda pair: f"«{pair[1]}{pair[2] or pair[3]}»", reply)
    return _DENIED_AFTER.sub("—", _DENIED_BEFORE.sub("—", reply))


def json_objects(text: str) -> list[tuple[dict[str, object], int]]:
    """Return the JSON objects that a text holds, outermost only, and where each ends."""
    decoder, found, start = json.JSONDecoder(), [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError:
            break
        except ValueError:
            end = start + 1
        else:
            found.append((value, end))
        start = text.find("{", end)
    return found


_KEY = re.compile(
    rf"(?:(?:final|correct|selected|best|richtige|korrekte)[_ ]?)?(?:{_NOUN}|correct)"
    r"(?:[_ ]?(?:letter|choice|option))?",
    re.I,
)


def _json_answer(reply: str) -> str:
    """Return what the last JSON object says under a key like "answer"."""
    for value, _ in reversed(json_objects(reply)):
        for key, said in value.items():
            if _KEY.fullmatch(key) and isinstance(said, str):
                return f"Answer: {said}"
    return ""


_ANY, _LETTER = r"«(\w+)»", r"«((?-i:[A-Z]+))»"
_WAY = (
    rf"(?:,? (?!{_BE}\b|(?:if|each|every|let|options)\b|consider|analy|evaluat|review)"
    r"[\w'’/-]+){0,8}?,?\s*"
)
_CHOOSE = (
    r"(?:choose|select|pick|go with|going with|go for|opt for|say|answer|vote for|settle on|"
    r"wähle|nehme|sage|tippe auf|würde|bevorzuge|entscheide mich für)"
)
_SO = r"(?:\b(?:therefore|thus|hence|so|daher|somit|folglich|deshalb)\b|=>|→|∴),?"
_ASIDE = rf"(?:{_LIKELY}|the|die|der|das|my|meine|our|only|single|one)"
# The heaviest statements of a reply decide: (weight, pattern).
_STATEMENTS = tuple(
    (weight, re.compile("".join(parts), re.IGNORECASE))
    for weight, *parts in (
        (
            3,
            rf"\b(?:final|finale|endgültige)\s+{_NOUN}\b",
            _WAY,
            rf"\"?(?:{_BE}\b|[:=-])?",
            _FILL,
            _ANY,
        ),
        (
            2,
            rf"(?<!each )(?<!every )\b(?:{_NOUN}|answers)\b[\"'’]?",
            _WAY,
            rf"(?:\b{_BE}\b|[:=]|[-–—]+>?|→)",
            _FILL,
            _ANY,
        ),
        (2, r"\b(?:answer|antwort|lösung)\s+", _LETTER),
        (2, rf"\b(?:{_CORRECT}|zutreffend)(?: one)?\s*(?:\b{_BE}\b|:)", _FILL, _ANY),
        (2, rf"\b(?:I|we|ich|wir)\b(?:['’]\w+)?(?: \w+){{0,3}}? {_CHOOSE}\b", _FILL, _ANY),
        (2, _SO, _FILL, _LETTER),
        (2, r"\b(?:wait|sorry|correction|actually|I mean)\b[,:]? ", _FILL, _LETTER),
        (
            2,
            _ANY,
            rf"\W{{0,3}}?,?\s*{_BE}(?: {_ASIDE})*(?: (?:{_CORRECT}|most \w+))?",
            rf"\s(?:{_NOUN}|one)s?\b",
        ),
        (
            1,
            _ANY,
            rf"\W{{0,3}}?(?:,?\s*{_BE}\s+(?:{_LIKELY} )*|[-–:(]\s*|\s)",
            rf"(?:(?:die |das )?{_CORRECT}(?!\w)|fits|stimmt|trifft zu|[✓✔✅])",
        ),
        (
            1,
            r"\b(?:it|this|that|es|das|dies)",
            r"(?: (?:is|must be|should be|has to be|ist|muss)|['’]s)\b",
            _FILL,
            _LETTER,
        ),
        (
            1,
            r"\b(?:leaves?|leaving|points? to|go with|choose|pick|select)\b(?: us)?(?: only)?",
            _FILL,
            _LETTER,
        ),
    )
)  # fmt: skip
_DOUBTED = re.compile(r"\b(?:might think|tempting to|whether|could argue|if|ob)\b[^.,;\n]*\Z", re.I)
_CONCLUDES = re.compile(
    r"\b(?:final(?:ly)?|therefore|thus|hence|so|conclusion|conclude|overall|actually|wait|correction|"
    r"sorry|daher|somit|folglich|deshalb|endgültig\w*|schließlich|fazit)\b[^.;\n]*\Z",
    re.I,
)


_SENTENCE = 200
"""Characters before a statement in which words of doubt or conclusion bear on it."""


class Statement(NamedTuple):
    """One place of a reply that says which option is right."""

    start: int
    weight: int
    letters: str
    concludes: bool


def _stated(marked: str) -> str:
    """Return the letters of the option that the reply states; several if it is at odds."""
    found = []
    for weight, pattern in _STATEMENTS:
        for said in pattern.finditer(marked):
            before = max(0, said.start() - _SENTENCE)
            if not _DOUBTED.search(marked, before, said.start()):
                concludes = bool(_CONCLUDES.search(marked, before, said.end()))
                found.append(Statement(said.start(1), weight, said.group(1).upper(), concludes))
    found += [Statement(start, 2, letters, False) for start, letters in _chosen_lines(marked)]
    if not found:
        return ""
    weight = max(statement.weight for statement in found)
    heaviest = sorted(statement for statement in found if statement.weight == weight)
    if weight == 3 or heaviest[-1].concludes:
        heaviest = heaviest[-1:]
    return _union(statement.letters for statement in heaviest)


_LINE = re.compile(
    rf"^(?:{_NOUN}\s(?=«\w»\)?(?:[.,]|\s*$|\s{_BECAUSE}\b)))?{_LETTER}(?=[).:,;–—]|\s*$|\s[–—(-]|\s{_BECAUSE}\b)",
    re.I | re.M,
)
_EXPLAINS = re.compile(r"\n[^\n]*(?:expla|reason|rational|why|other|begründ|erklär|warum)", re.I)
_ANNOUNCES = re.compile(
    r"(?:each|options|choices|consider|analy|evaluat|optionen|antworten|betracht)[^\n]*\s*\Z", re.I
)


def _chosen_lines(marked: str) -> Iterator[tuple[int, str]]:
    """Yield place and letters of the first line if it starts with a label, and of a last label.

    A first label A before a B is the list of options repeated, no choice, and so is a last label
    that goes on with such a list.
    """
    lines = list(_LINE.finditer(marked))
    if not lines:
        return
    labels = [line.group(1).upper() for line in lines]
    between = marked[: lines[1].start()] if len(lines) > 1 else ""
    if lines[0].start() == 0 and (labels[:2] != ["A", "B"] or _EXPLAINS.search(between)):
        yield 0, labels[0]
    ends = not re.search(r"\w", marked[lines[-1].end() :])
    if ends and len(lines) == 1 and not _ANNOUNCES.search(marked, 0, lines[-1].start()):
        yield lines[-1].start(), labels[-1]
    if ends and len(lines) > 1 and labels[-1] <= labels[-2]:
        yield lines[-1].start(), labels[-1]


_AT_END = re.compile(rf"{_ANY}\W*\Z")


def _ending(marked: str) -> str:
    """Return the letter that ends a reply which names no other."""
    ending = _AT_END.search(marked)
    if not ending or not ending.group(1).isupper():
        return ""
    before = max(0, ending.start() - _SENTENCE), ending.start()
    if _ANNOUNCES.search(marked, *before) or _DOUBTED.search(marked, *before):
        return ""
    return _union(re.findall(_LETTER, marked))


_OPENING = re.compile(
    rf"(?:(?:it|this|es|dies|das)(?: (?:is|ist)|['’]s) )?{_FILL}«((?-i:[a-z]+))»(?P<after>.*)",
    re.I | re.S,
)
_AFTER_WORDS = re.compile(rf"\s*(?:\Z|[\n.,;:!(–—])|\s(?:-|{_BECAUSE}\b)", re.I)


def _worded(marked: str) -> str:
    """Return the option whose words open the reply, are its last line or end its one sentence."""
    opening = _OPENING.match(marked)
    if opening and _AFTER_WORDS.match(opening["after"]):
        return _union([opening.group(1)])
    last = re.fullmatch(r"«([a-z]+)»[ .!]*", marked.rsplit("\n", 1)[-1])
    if last:
        return _union([last.group(1)])
    sentence = marked.rstrip(" .!")
    if _DOUBTED.search(sentence):
        return ""
    if (
        re.search(r"[.!?\n]\s", sentence)
        or len(sentence.split()) > 20
        or not sentence.endswith("»")
    ):
        return ""
    return _union(re.findall(_ANY, sentence))


def _union(letters: Iterable[str]) -> str:
    """Return the distinct letters of all, in upper case and order."""
    return "".join(sorted(set("".join(letters).upper())))


def parse_lines(lines: Iterable[str]) -> Iterator[dict[str, str | None]]:
    """Yield {"choice", "parser"} for each line of JSON {"text", "options"}, in order.

    A line that is no such object has choice None and an "error" that says why.
    """
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield {"choice": None, "parser": "tolerant", "error": f"not JSON: {error}"}
            continue
        text = value.get("text") if isinstance(value, dict) else None
        options = value.get("options") if isinstance(value, dict) else None
        if not isinstance(text, str):
            problem = '"text" must be a string'
        elif not (isinstance(options, list) and all(isinstance(option, str) for option in options)):
            problem = '"options" must be a list of strings'
        elif not 2 <= len(options) <= len(LETTERS):
            problem = f'"options" must hold 2 to {len(LETTERS)} strings'
        else:
            choice = parse(text, options)
            yield {"choice": choice.letter, "parser": choice.parser}
            continue
        yield {"choice": None, "parser": "tolerant", "error": problem}


class ChoiceScorer:
    """Answers to multiple-choice questions, by the letter written and by likelihood.

    Labels are letters of the question's own, unrotated order. An unread or refused reply is
    "unparsed", a failed one "error"; neither leaves the denominator. The likeliest option has
    the largest sum of log-probabilities, or the largest mean over its tokens; where several
    share the maximum there is no likeliest one and the answer counts as wrong, since taking
    the first of them would favour A.
    """

    metrics: tuple[str, ...] = ("accuracy", "accuracy_likelihood", "accuracy_likelihood_per_token")

    def __init__(self, parser: str = "tolerant") -> None:
        self.parser = parser

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return three scores for every answer to a choice question, in order."""
        items = [(question, answer) for question, answer in items if question.kind == "choice"]
        able = {answer.arm for _, answer in items if answer.option_logprobs}
        scores = []
        for question, answer in items:
            if question.answer not in tuple(LETTERS[: len(question.options)]):
                keyless = {"status": "error", "note": "the question has no key"}
                scores += [blank(m, answer).model_copy(update=keyless) for m in self.metrics]
                continue
            scores.append(self._written(question, answer))
            for metric in self.metrics[1:]:
                scores.append(_likeliest(metric, question, answer, answer.arm in able))
        return scores

    def _written(self, question: Question, answer: Answer) -> Score:
        score = blank("accuracy", answer)
        if answer.status == "error":
            return score.model_copy(update={"status": "error", "note": answer.reason})
        if answer.status == "refused":
            return score.model_copy(update={"note": f"refused: {answer.reason}"})
        choice = parse(answer.text, rotated(question.options, answer.permutation), self.parser)
        if choice.letter is None:
            return score.model_copy(update={"note": choice.parser})
        letter = original_letter(choice.letter, answer.permutation, len(question.options))
        return _scored(score, question, letter, choice.parser)


def _scored(score: Score, question: Question, letter: str, note: str) -> Score:
    value = float(letter == question.answer)
    return score.model_copy(
        update={"value": value, "label": letter, "note": note, "status": "scored"}
    )


def _likeliest(metric: str, question: Question, answer: Answer, able: bool) -> Score:
    score, count = blank(metric, answer), len(question.options)
    if not answer.option_logprobs:
        failed = able and answer.status == "error"
        status, note = ("error", answer.reason) if failed else ("not_applicable", "no likelihoods")
        return score.model_copy(update={"status": status, "note": note})
    per_token = metric.endswith("per_token")
    tokens = answer.option_tokens if per_token else (1,) * len(answer.option_logprobs)
    if len(answer.option_logprobs) != count or len(tokens) != count or min(tokens) < 1:
        note = f"{len(answer.option_logprobs)} likelihoods of {len(tokens)} token counts"
        return score.model_copy(update={"status": "error", "note": f"{note} for {count} options"})
    values = [logprob / n for logprob, n in zip(answer.option_logprobs, tokens, strict=True)]
    best = [LETTERS[i] for i, value in enumerate(values) if value == max(values)]
    if len(best) > 1:
        return _scored(score, question, "", f"tie of {', '.join(best)}")
    note = "mean log-probability of the tokens" if per_token else "sum of log-probabilities"
    return _scored(score, question, best[0], note)


def positions(
    scores: Iterable[Score], questions: Mapping[str, Question]
) -> dict[str, dict[str, float]]:
    """Return for each arm the share of its letters that stood at each place, A first.

    An arm without position bias names the places as often as the key stands there. Only
    letters that were read count.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for score in scores:
        if score.metric == "accuracy" and score.status == "scored":
            options = len(questions[score.question_id].options)
            counts[score.arm][(LETTERS.index(score.label) - score.permutation) % options] += 1
    return {
        arm: {LETTERS[place]: found[place] / found.total() for place in sorted(found)}
        for arm, found in counts.items()
    }
