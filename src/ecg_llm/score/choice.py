"""Replies to multiple-choice questions to letters, and letters and likelihoods to scores."""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import combinations
from typing import NamedTuple

from ecg_llm.contracts import EMPTY, UsageError
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
    has none, unless the last is marked as the conclusion ("final answer", "therefore"); options
    that it rejects ("wrong answers: A, C") and lists of all options state nothing. Where letter
    and words disagree the letter counts, since it was asked for.

    Raises:
        UsageError: there is no parser of this name.
    """
    _check(parser)
    strict = _STRICT.fullmatch(text.strip())
    letter = _among(strict.group(1), options) if strict else None
    if letter or parser == "strict":
        return Choice(letter, "strict")
    reply, words = _clean(text), _option_words(tuple(options))
    for said in (_json_answer(reply), reply):
        marked = _marked(said, words, frozenset(LETTERS[: len(options)]))
        for rule in (_stated, _ending, _worded):
            if letters := rule(marked):
                return Choice(_among(letters, options), "tolerant")
    return Choice(None, "tolerant")


def _check(parser: str) -> None:
    if parser not in PARSERS:
        raise UsageError(f"There is no parser named {parser!r}{suggestion(parser, PARSERS)}")


_STRICT = re.compile(r"(?:The correct answer is )?([A-Z])\.?")


def _among(letters: str, options: Sequence[str]) -> str | None:
    """Return the one letter that is left, if it is that of an option."""
    return letters if len(letters) == 1 and letters in LETTERS[: len(options)] else None


_THOUGHT = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
_INTERROGATIVE = (
    r"(?:is|are|was|could|would|should|can|does|do|why|what|which|how|"
    r"ist|sind|könnte|wäre|kann|warum|was|welche\w*|wie)"
)
# What stands around an answer but is no part of it: (pattern, replacement), applied in order.
_NOISE = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Reasoning between marks, and what comes before the last channel of gpt-oss.
        (rf"[<\[◁]{_THOUGHT}[>\]▷].*?(?:[<\[◁]/{_THOUGHT}[>\]▷]|\Z)", ""),
        (rf"\A.*[<\[◁]/{_THOUGHT}[>\]▷]", ""),
        (r"\A.*<\|channel\|>final<\|message\|>", ""),
        (r"<answer>(.*?)(?:</answer>|\Z)", r"\nFinal answer: \1\n"),
        (r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1"),
        (r"\\boxed\s*\{([^{}]*)\}", r"\nFinal answer: \1\n"),
        (r"(?<=\S)<\|(?:eot_id|eom_id|im_end|end|end_of_turn|endoftext|return)\|>.*", ""),
        (r"</?[a-z|][^<>\n]{0,30}>|\\[()\[\]]|[*`$«»\u200b-\u200d\ufe0f\ufeff]|__", ""),
        (r"(?<!\w)_|_(?!\w)|(?:\A|(?<=\n))[#>]+", ""),
        (r"\A\s*assistant\b:?", ""),
        (r"[^\S\n]+", " "),
        (r" ?\n[ \n]*", "\n"),
        # A question that a reply asks itself says nothing.
        (rf"(?:\A|(?<=\n)|(?<=[.!?] )){_INTERROGATIVE}\b[^.!?\n]*\?", ""),
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
        name, flags, end = "".join(words), re.IGNORECASE, r"(?!\w)"
        if len(name) == 1 and name.isalpha():  # lead "I" of the ECG, but no "I think"
            flags, end = re.NOFLAG, r"(?=\s*(?:\Z|[)\n.,;:]))"
        # An option that is itself a label (vitamin "D") cannot be told from one.
        if name and name.upper() not in tuple(LETTERS[: len(options)]):
            pattern = r"(?<![\w-])" + r"[\s-]+".join(map(re.escape, words)) + end
            found.append((letter, re.compile(pattern, flags)))
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
_BEST = r"(?:best|beste|closest|most (?:likely|appropriate|probable|accurate|suitable))"
_CORRECT = rf"(?:correct|right|true|richtige?|korrekte?|zutreffende?|wahr|(?:the )?{_BEST})"
_REJECTED = (
    r"(?:in\w*correct|wrong|false|unlikely|untrue|impossible|excluded|ruled out|rejected|"
    r"falsch\w*|unwahrscheinlich\w*|ausgeschlossen)"
)
_WRONG = rf"(?:not|nicht|kein\w*|{_REJECTED})"
_BECAUSE = r"(?:because|since|as|due|weil|da|denn)"
_LIKELY = (
    r"(?:clearly|definitely|therefore|thus|hence|also|indeed|probably|likely|most likely|simply|"
    r"actually|then|here|in fact|either|both|wahrscheinlich|am ehesten|eindeutig|daher|somit|"
    r"entweder|sowohl)"
)
_FILL = rf"(?:[\s\"'“”„‘’:(]|(?:{_LIKELY}|{_NOUN}|the|an?|der|die|das|eine?)\b){{0,20}}"

_NOUNS = rf"{_NOUN}(?:s|en)?"

# What follows a letter that names an option, as it does not in "A P wave" or "a long PR".
_AFTER_LABEL = re.compile(
    rf"\s*(?:\Z|[)\]}}\n.,;:!?/&+|=<>–—(→❌✗✘✓✔✅])|\s(?:-|{_BECAUSE}\b|{_BE}\b|{_CORRECT}\b|(?:which|and|"
    r"or|but|not|with|based|over|than|rather|instead|und|oder|aber|nicht|stimmt|trifft|die|das|"
    r"wählen|nehmen|würde|kommt|in frage|fits|does|can)\b|(?-i:(?:(?:to|through|bis)\s)?[A-Z])"
    r"(?:(?-i:\s[A-Z])){0,25}[.)]?\s*(?:\Z|\n))",
    re.I,
)
_AFTER_SMALL_LABEL = re.compile(
    rf"\s*(?:\Z|[)\]}}\n.,;:!?])|\s(?:{_BECAUSE}|and|or|und|oder|is|ist)\b"
)
_LABEL = re.compile(
    r"(?<![\w'’«.-])[(\[{\"'“„‘]{0,2}([A-Za-z])(?![\w»]|['’-]\w|\.(?![A-ZÄÖÜ][a-zäöü])\w)(?:\s?[\"'”’]|\s(?=[)\]}]))?"
)
# After a letter that is a part of a name: "A. radialis", "C. difficile".
_LATIN = re.compile(rf"\.\s(?!{_BECAUSE}\b)[a-zäöü]")
_NAMES = re.compile(
    r"\b(?:type|group|vitamin|hepatitis|stage|class|lead|grade|factor|protein|troponin|influenza|"
    r"typ|gruppe|stadium|klasse|ableitung|faktor) \Z",
    re.I,
)
# Before an option's words: "second-degree AV block" is no "AV block", and an example no answer.
_ANOTHER = re.compile(
    r"\b(?:degree|grade?s?|left|right|(?:in)?complete|partial|upper|lower|pseudo|non|without|ohne|"
    r"links|rechts|(?:in)?komplett\w*|such as|e\.g\.)[ -]\Z",
    re.I,
)
_ANSWERS = re.compile(r"\A«A»: (?!«a»)(?!.*\n«B»)(?=\S)", re.S)
_LABEL_AND_WORDS = re.compile(r"«([A-Z])»[\s.,:;=)\]–—-]*«([a-z])»")
_LIST = re.compile(
    rf"«(\w+)»\)?\s*(?:(?:,?\s*\b(?:or|oder)\b|/)\s*(?:{_NOUN} )?«(\w+)»|"
    rf"(?:,?\s*\b(?:and|und|through|to|bis)\b|[,&+<>]|"
    r"(?-i:(?<=[A-Z]»)(?: ?[–-]| )(?= ?«[A-Z])|(?<=[A-Z]»\)) (?=«[A-Z]+»\))))"
    rf"\s*(?:{_NOUN} )?«(\w+)»"
    # "B, A is wrong" and "B and A is wrong" start a new clause; "A and C are right" is a list.
    r"(?!\)?\s(?:is|ist|was|war|has|hat|would|does|can|could|shows)\b))",
    re.I,
)
_LISTED = re.compile(r"\(?«(\w+)»\)?")
_BETWEEN = re.compile(r"\b(?:between|zwischen) «\w+»\)? (?:and|und) «\w+»\)?,?", re.I)
_BAD = rf"(?:(?:not|nicht) {_CORRECT}|{_REJECTED}|worst|least \w+)"
_DENIED_BEFORE = re.compile(
    r"(?:(?<![^\n])[❌✗✘]|\b(?:not|never|nicht|auf keinen fall|kein\w*|neither|nor|weder|noch|"
    r"unlike|cannot|anything but|unlikely|(?:than|over|instead of|statt)(?=\s«(?-i:[A-Z]+)»)|"
    rf"{_BAD} {_BE})\b|n['’]t\b|"
    # Headings, and lists of what might be answered.
    rf"\b(?:{_BAD}|example)[ _]{_NOUNS}(?: \w+)?\"?(?: {_BE}\b|:\n?|\n)|"
    rf"(?:possible|other|mögliche) (?!{_NOUN}\b){_NOUNS}(?: {_BE}\b|:\n?)|"
    rf"(?<![\w»)—:,] )\b{_BAD}:\n?)"
    rf"(?:[ :]|\b(?:{_NOUN}|{_BE}|be|to|an?|the|choose|select|pick|eine?)\b)*«\w+»",
    re.I,
)
_DENIED_AFTER = re.compile(
    r"«\w+»(?:[).:,|]? ?[❌✗✘]|[).:,|]? ?(?:(?:which|that|das|was)\s)?"
    rf"(?:{_BE}|do|does|cannot|can|trifft|stimmt|[–—(=→-])? ?(?:\w+ )?{_WRONG}\b"
    # The heading of the next sentence says nothing of this letter.
    rf"(?!:\s*«|\s{_NOUNS}\b(?:[^.\n«]{{0,20}}:| {_BE}\b))"
    r"(?:\s(?:correct|right|true|richtig))?)",
    re.I,
)


def _same(letter: str, said: re.Match[str]) -> str:
    """Return the mark of an option's words, or them where they are a part of another name."""
    another = _ANOTHER.search(said.string, max(0, said.start() - 20), said.start())
    return said.group() if another else f"«{letter.lower()}»"


def _marked(
    reply: str, words: Sequence[tuple[str, re.Pattern[str]]], labels: frozenset[str]
) -> str:
    """Return the reply with every option named in it as «B» (its letter) or «b» (its words).

    A letter with the option's words is «B»), a list like "A or B" is «AB»; options that the
    reply rejects ("not A", "A is wrong"), lists of all `labels` and "between A and B" are left
    out.
    """
    for letter, pattern in words:
        reply = pattern.sub(partial(_same, letter), reply)

    def label(found: re.Match[str]) -> str:
        letter, end = found.group(1), found.end()
        named = _NAMES.search(reply, max(0, found.start(1) - 12), found.start(1))
        if named or (letter.isupper() and _LATIN.match(reply, end)):
            return found.group()
        after = _AFTER_LABEL if letter.isupper() else _AFTER_SMALL_LABEL
        own = reply[end : end + 8].lstrip(" .:)").startswith(f"«{letter.lower()}»")
        if not (own or after.match(reply, end)):
            return found.group()
        # A bracket that stays open keeps what stands in it apart from what stands before.
        opened = found.group()[0] == "(" and reply[end : end + 1] != ")"
        return f"{'(' if opened else ''}«{letter.upper()}»"

    # "A: ..." may be the answer to a question and not the first option.
    reply = _ANSWERS.sub("", _LABEL.sub(label, reply))
    reply = _LABEL_AND_WORDS.sub(
        lambda both: f"«{both[1]}»)" if both[1].lower() == both[2] else both[0], reply
    )
    reply, joined = _BETWEEN.sub("", reply), ""
    while joined != reply:
        joined, reply = reply, _LIST.sub(lambda pair: f"«{pair[1]}{pair[2] or pair[3]}»", reply)
    reply = _DENIED_AFTER.sub("—", _DENIED_BEFORE.sub("—", reply))
    return _LISTED.sub(lambda some: some[0] if labels - set(some[1].upper()) else "", reply)


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
    """Return what the last JSON object says under keys like "answer", or under "final_answer"."""
    for value, _ in reversed(json_objects(reply)):
        said = {k: v for k, v in value.items() if _KEY.fullmatch(k) and isinstance(v, str)}
        if said:
            final = [v for k, v in said.items() if k.lower().startswith("final")]
            return "\n".join(f"Answer: {v}" for v in final or said.values())
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
        (
            2,
            rf"\b(?:(?:I|we|ich|wir)\b(?:['’]\w+)?(?: \w+){{0,3}}? {_CHOOSE}|{_CHOOSE} ich)\b",
            _FILL,
            _ANY,
        ),
        (2, _SO, _FILL, _LETTER),
        (2, r"(?:\A|(?<=\n))[✓✔✅☑] ?", _ANY),
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
            rf"\W{{0,3}}?(?:,?\s*{_BE}\s+(?:{_LIKELY} )*|[-–:(|=→]\s*|\s)",
            rf"(?:(?:die |das )?{_CORRECT}(?!\w)|fits|stimmt|trifft zu|"
            rf"(?:kommt (?:{_LIKELY} )*)?in frage|[✓✔✅])",
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
            r"\b(?:leaves?|leaving|bleibt|points? to|go with|choose|pick|select)\b"
            r"(?: us)?(?: only| nur)?",
            _FILL,
            _LETTER,
        ),
    )
)  # fmt: skip
_DOUBTED = re.compile(
    r"\b(?:might think|tempting to|whether|could argue|if|ob|assum\w+|suppose|doubt|no one|nobody|"
    r"(?:some|many|people)(?: \w+)? (?:say|think|argue)|(?:false|wrong|untrue|unclear) that|"
    r"(?:do not|don['’]t|not) (?:think|believe)|glaube nicht, dass|bezweifle, dass)\b[^.,;\n]*\Z",
    re.I,
)
_ASKED = re.compile(r"\)?[\"”]?(?:\?\s*\w|,? (?:if|wenn|falls)\b)", re.I)
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
            asked = _ASKED.match(marked, said.end())
            if not asked and not _DOUBTED.search(marked, before, said.start()):
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


_ABSTAINS = (
    r"\W+(?:as in|«?I»? (?:can|don?|am)(?: ?not|['’]t) (?:able|answer|know|say|tell|determine)\b)"
)
_LINE = re.compile(
    rf"^(?:{_NOUN}\s(?=«\w»\)?(?:[.,]|\s*$|\s{_BECAUSE}\b)))?{_LETTER}(?!{_ABSTAINS})(?=[).:,;–—]|\s*$|\s[–—(-]|\s{_BECAUSE}\b)",
    re.I | re.M,
)
_WEIGHED = re.compile(r"«\w+»[):]{0,2}\s?\(?\d+\s?%.*?«\w+»[):]{0,2}\s?\(?\d+\s?%", re.S)
_EXPLAINS = re.compile(r"\n[^\n]*(?:expla|reason|rational|why|other|begründ|erklär|warum)", re.I)
_ANNOUNCES = re.compile(
    r"(?:each|options|choices|consider|analy|evaluat|optionen|antworten|betracht)[^\n]*\s*\Z", re.I
)


def _chosen_lines(marked: str) -> Iterator[tuple[int, str]]:
    """Yield place and letters of the first line if it starts with a label, and of a last label.

    A first label A before a B is the list of options repeated, no choice, and so is a last label
    that goes on with such a list. A line of labels alone or with percentages chooses none, and
    neither does one that goes on to abstain ("A - I cannot answer").
    """
    lines = list(_LINE.finditer(marked))
    bare = re.match(r"(?:«\w»[^\w\n«:)]*){2,}$", marked, re.M)
    if not lines or bare or _WEIGHED.match(marked, lines[0].start()):
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


def parse_lines(lines: Iterable[str], parser: str = "tolerant") -> Iterator[dict[str, str | None]]:
    """Yield {"choice", "parser"} for each line of JSON {"text", "options"}, in order.

    A line that is no such object has choice None and an "error" that says why.

    Raises:
        UsageError: there is no parser of this name.
    """
    _check(parser)
    for number, line in enumerate(lines):
        try:
            value = json.loads(line if number else line.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            yield {"choice": None, "parser": parser, "error": f"not JSON: {error}"}
            continue
        text = value.get("text") if isinstance(value, dict) else None
        options = value.get("options") if isinstance(value, dict) else None
        if not isinstance(text, str):
            problem = '"text" must be a string'
        elif not (isinstance(options, list) and all(isinstance(option, str) for option in options)):
            problem = '"options" must be a list of strings'
        elif not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
            problem = f'"options" must hold 2 to {len(LETTERS)} different strings'
        else:
            choice = parse(text, options, parser)
            yield {"choice": choice.letter, "parser": choice.parser}
            continue
        yield {"choice": None, "parser": parser, "error": problem}


class ChoiceScorer:
    """Answers to multiple-choice questions, by the letter written and by likelihood.

    Labels are letters of the question's own, unrotated order. An unread or refused reply is
    "unparsed", a failed one "error"; neither leaves the denominator. `accuracy` reads with the
    tolerant parser and `accuracy_strict` with the strict one; `unread` and `unread_strict` are 1
    where that parser finds no letter in a reply, be it refused or empty. The likeliest option has
    the largest sum of log-probabilities, or the largest mean over its tokens; where several
    share the maximum there is no likeliest one and the answer counts as wrong, since taking
    the first of them would favour A.

    Where a question was asked in several permutations, they have two scores together, in the row
    of permutation 0: `accuracy_circular` is 1 if the letter written is right in every one
    (CircularEval of MMBench, arXiv 2307.06281), and `consistency` is the share of pairs of
    permutations in which the same option was named; an unread reply agrees with nothing. If one
    of the answers failed, both are an "error", which counts as 0 and as missing: without it, an
    arm would be asked in fewer permutations than the others.
    """

    metrics: tuple[str, ...] = (
        "accuracy",
        "unread",
        "accuracy_strict",
        "unread_strict",
        "accuracy_likelihood",
        "accuracy_likelihood_per_token",
        "accuracy_circular",
        "consistency",
    )

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return the scores of every answer to a choice question, in order, and of permutations."""
        items = [(question, answer) for question, answer in items if question.kind == "choice"]
        able = {answer.arm for _, answer in items if answer.option_logprobs}
        together: dict[tuple[str, str, int], list[tuple[Answer, Score]]] = defaultdict(list)
        questions = {question.question_id: question for question, _ in items}
        scores = []
        for question, answer in items:
            read = _written("accuracy", "tolerant", question, answer)
            scores += [*read, *_written("accuracy_strict", "strict", question, answer)]
            scores += [_likeliest(m, question, answer, answer.arm in able) for m in _LIKELIHOODS]
            key = (answer.question_id, answer.arm, answer.repeat)
            together[key].append((answer, read[0]))
        for key, asked in together.items():
            if len(asked) > 1:
                scores += _circular(questions[key[0]], asked)
        return scores


_LIKELIHOODS = ("accuracy_likelihood", "accuracy_likelihood_per_token")
_KEYLESS = {"status": "error", "note": "the question has no key"}


def _has_key(question: Question) -> bool:
    return question.answer in tuple(LETTERS[: len(question.options)])


def _written(metric: str, parser: str, question: Question, answer: Answer) -> tuple[Score, Score]:
    """Return whether the letter written is right, and whether there is none."""
    score, unread = blank(metric, answer), blank(metric.replace("accuracy", "unread"), answer)
    if answer.status == "error" and answer.reason != EMPTY:
        failed = {"status": "error", "note": answer.reason}
        return score.model_copy(update=failed), unread.model_copy(update=failed)
    choice, note = Choice(None, parser), answer.reason
    if answer.status == "refused":
        note = f"refused: {answer.reason}"
    elif answer.status != "error":
        choice = parse(answer.text, rotated(question.options, answer.permutation), parser)
        note = choice.parser
    none = {"value": float(choice.letter is None), "note": note, "status": "scored"}
    unread = unread.model_copy(update=none)
    if not _has_key(question):
        return score.model_copy(update=_KEYLESS), unread
    if choice.letter is None:
        return score.model_copy(update={"note": note}), unread
    letter = original_letter(choice.letter, answer.permutation, len(question.options))
    return _scored(score, question, letter, note), unread


def _circular(question: Question, asked: Sequence[tuple[Answer, Score]]) -> list[Score]:
    """Return what the answers to all permutations of one question are worth together.

    `asked` holds each answer with its score of the metric accuracy.
    """
    first = asked[0][0].model_copy(update={"permutation": 0})
    right, same = blank("accuracy_circular", first), blank("consistency", first)
    failed = [score.note for _, score in asked if score.status == "error"]
    if failed:
        note = f"{len(failed)} of {len(asked)} permutations: {failed[0]}"
        error = {"status": "error", "note": note}
        return [right.model_copy(update=error), same.model_copy(update=error)]
    pairs = list(combinations([score.label for _, score in asked], 2))
    agreeing = sum(one == other != "" for one, other in pairs)
    said = {"status": "scored", "note": f"{len(asked)} permutations"}
    every = float(all(score.value == 1 for _, score in asked))
    return [
        right.model_copy(update={"value": every, **said}),
        same.model_copy(update={"value": agreeing / len(pairs), **said}),
    ]


def _scored(score: Score, question: Question, letter: str, note: str) -> Score:
    value = float(letter == question.answer)
    return score.model_copy(
        update={"value": value, "label": letter, "note": note, "status": "scored"}
    )


def _likeliest(metric: str, question: Question, answer: Answer, able: bool) -> Score:
    score, count = blank(metric, answer), len(question.options)
    if not _has_key(question):
        return score.model_copy(update=_KEYLESS)
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
