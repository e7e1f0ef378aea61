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

PARSERS = ("strict", "tolerant")
"""strict: the sentence asked for, or the bare letter. tolerant: whatever a careful reader
would take for the answer, and nothing that such a reader would not."""

UNCLEAR = "?"
"""What a reading rule returns for a reply that contradicts itself."""


class Choice(NamedTuple):
    """The letter a reply gives, or None, and the parser that read it (or failed last)."""

    letter: str | None
    parser: str


def parse(text: str, options: Sequence[str], parser: str = "tolerant") -> Choice:
    """Return the option that a reply chooses among `options`, as they were shown.

    The tolerant parser tries the strict one first and names the one that succeeded, so that
    the notes of the scores show how often an arm kept to the form. It reads, in this order: a
    JSON answer, a stated answer ("the answer is B", "Antwort B", "B is correct"; the letter or
    the option's words), a letter at the start or end, an option's words alone. A reply that
    states two answers has none, unless the last is marked as the conclusion ("final answer",
    "therefore"). Where letter and words disagree the letter counts: it was asked for.

    Raises:
        UsageError: there is no parser of this name.
    """
    if parser not in PARSERS:
        raise UsageError(f"There is no parser named {parser!r}{suggestion(parser, PARSERS)}")
    strict = STRICT.fullmatch(text.strip())
    if strict or parser == "strict":
        letter = strict.group(1) if strict else None
        return Choice(letter if letter in LETTERS[: len(options)] else None, "strict")
    reply, shown = _clean(text), _patterns(tuple(options))
    for rule in (_in_json, _stated, _bare, _in_words):
        letter = rule(reply, shown)
        if letter:
            return Choice(letter if letter in LETTERS[: len(options)] else None, "tolerant")
    return Choice(None, "tolerant")


STRICT = re.compile(r"(?:The correct answer is )?([A-Z])\.?")

Patterns = tuple[tuple[str, re.Pattern[str]], ...]
"""(letter, pattern of the option's words), longest words first."""


@lru_cache(maxsize=4096)
def _patterns(options: tuple[str, ...]) -> Patterns:
    found = []
    for letter, option in zip(LETTERS, options, strict=False):
        words = _clean(option).rstrip(".!? ").split()
        # An option that is itself a letter (vitamin "D") cannot be told from a label.
        if len("".join(words)) > 1:
            pattern = r"(?<!\w)" + r"[\s\-]+".join(map(re.escape, words)) + r"(?!\w)"
            found.append((letter, re.compile(pattern, re.IGNORECASE)))
    return tuple(sorted(found, key=lambda item: -len(item[1].pattern)))


# What stands around the answer but is no part of it: (pattern, replacement), applied in order.
_NOISE = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", ""),
        (r"\A.*</think(?:ing)?>", ""),
        (r"\\boxed\s*\{(?:\s*\\(?:text|mathrm|mathbf|textbf)\s*\{)?([^{}]*)\}+", r"\nFinal answer: \1\n"),
        (r"<answer>(.*?)(?:</answer>|\Z)", r"\nFinal answer: \1\n"),
        (r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1"),
        (r"</?[a-z|][^<>\n]{0,30}>|\\[()\[\]]|[*`$\u200b-\u200d\ufeff]|__", ""),
        (r"(?<!\w)_|_(?!\w)|^[#>]+|(?<=\n)[#>]+", ""),
        (r"\A\s*assistant\b:?", ""),
        (r"[^\S\n]+", " "),
        (r" ?\n ?", "\n"),
        # A model that goes on with a question of its own has ended its answer.
        (r"(?<=\S)\n\s*(?:question|frage|user|human)\b ?\d*\s*[:.)].*", ""),
    )
)  # fmt: skip


def _clean(text: str) -> str:
    """Return the text without thinking, markup and chat tokens, in NFKC."""
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text.strip()


_CORRECT = (
    r"(?:correct|right|true|richtige?|korrekte?|zutreffende?|wahr|"
    r"(?:the )?(?:best|most (?:likely|appropriate|probable|accurate)))"
)
_WRONG = (
    r"(?:not|in\w*correct|wrong|false|unlikely|untrue|impossible|excluded|ruled out|less|"
    r"nicht|falsch\w*|unwahrscheinlich|ausgeschlossen|kein\w*)"
)
_BE = (
    r"(?:is|was|are|would be|will be|should be|must be|has to be|seems to be|appears to be|"
    r"remains|ist|wäre|sind|lautet|heißt)"
)
_LIKELY = (
    r"(?:clearly|definitely|therefore|thus|hence|also|indeed|probably|likely|most likely|simply|"
    r"actually|then|here|in fact|either|both|wahrscheinlich|am ehesten|eindeutig|daher|somit|"
    r"entweder|sowohl)"
)
_NOUN = (
    r"(?:answer|choice|option|solution|response|alternative|letter|diagnosis|"
    r"antwort(?:möglichkeit|option)?|lösung|auswahl|wahl|buchstabe|diagnose)"
)
_FILLER = re.compile(
    rf"(?:[\s\"'“”„‘’«:]|(?:{_LIKELY}|{_NOUN}|the|der|die|das|number|by|mit|with)\b(?=\W))*", re.I
)
_ARTICLE = re.compile(r"(?:an?|the|eine?|der|die|das)\s", re.I)
_LABEL = re.compile(r"([(\[{]?)\s?([A-Za-z])\b\s?[\"'“”’»)\]}]{0,2}(?!['’.-]\w)")
# What may stand after a letter that names an option; "A P wave" and "a long PR" are no such.
_AFTER = re.compile(
    rf"\s*(?:\Z|\n|[.,;:!?/&+|=–—]|\()|\s+(?:-|(?:because|since|as|due|which|and|or|but|with|based|"
    rf"given|weil|da|denn|und|oder|aber|{_BE}|{_CORRECT}|stimmt|trifft|wählen|nehmen|best|fits?|"
    rf"can|does|over|instead|rather|than)\b)",
    re.I,
)
_AFTER_SMALL = re.compile(r"\s*(?:\Z|\n|[.,;:!?])|\s+(?:because|since|weil|und|and|or|oder|ist|is)\b")
_OR = re.compile(r"\s*(,|/|&|\+|\band\b|\bor\b|\bund\b|\boder\b|,\s*(?:and|or|und|oder)\b)\s*", re.I)
_ONE_IS = re.compile(r"\s*(?:is|ist|was|war|has|hat|would|does|can|could|shows|describes)\b", re.I)
_WRONG_AFTER = re.compile(
    rf"[^\n.;]{{0,2}}?\s*(?:{_BE}|does|can|do|cannot|trifft|stimmt|[-–:(])?\s*(?:\w+ )?{_WRONG}\b",
    re.I,
)


class Named(NamedTuple):
    """Letters named at a place of the reply, and where that place ends."""

    letters: frozenset[str]
    end: int


def _named(reply: str, start: int, shown: Patterns, words: bool = True) -> Named | None:
    """Return the option named at `start`, all of a list ("A or B"), or None."""
    start = _FILLER.match(reply, start).end()  # type: ignore[union-attr]
    first = _label(reply, start, shown) or (_words(reply, start, shown) if words else None)
    if first is None:
        return None
    letters, end = {first[0]}, first[1]
    while joint := _OR.match(reply, end):
        start = _FILLER.match(reply, joint.end()).end()  # type: ignore[union-attr]
        after = _label(reply, start, shown) or (_words(reply, start, shown) if words else None)
        either = joint.group(1).strip(", ").lower() in ("or", "oder")
        if after is None or (_ONE_IS.match(reply, after[1]) and not either):
            break
        letters.add(after[0])
        end = after[1]
    return Named(frozenset(letters), end)


def _label(reply: str, start: int, shown: Patterns) -> tuple[str, int] | None:
    """Return the letter that labels an option at `start`, and where its label ends."""
    found = _LABEL.match(reply, start)
    if not found:
        return None
    closed = bool(re.search(r"[)\]}]", found.group()))
    letter, end = found.group(2), found.end()
    own = next((p for name, p in shown if name == letter.upper()), None)
    if own and own.match(reply, _spaces(reply, end)):
        return letter.upper(), own.match(reply, _spaces(reply, end)).end()  # type: ignore[union-attr]
    after = _AFTER if letter.isupper() else _AFTER_SMALL
    if closed or after.match(reply, end):
        return letter.upper(), end
    return None


def _spaces(reply: str, start: int) -> int:
    """Return where the words after a label start: its punctuation is skipped."""
    return re.compile(r"[\s.,:;)\]–—-]*").match(reply, start).end()  # type: ignore[union-attr]


def _words(reply: str, start: int, shown: Patterns) -> tuple[str, int] | None:
    """Return the letter of the option whose words stand at `start`, and where they end."""
    article = _ARTICLE.match(reply, start)
    for place in (start, article.end() if article else start):
        for letter, pattern in shown:
            if found := pattern.match(reply, place):
                return letter, found.end()
    return None


def json_objects(text: str) -> list[dict[str, object]]:
    """Return the JSON objects that a text holds, outermost only, in order."""
    decoder, found, start = json.JSONDecoder(), [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found


_KEY = re.compile(
    rf"(?:(?:final|correct|selected|best|richtige|korrekte)[_ ]?)?(?:{_NOUN}|correct)"
    r"(?:[_ ]?(?:letter|choice|option))?",
    re.I,
)


def _in_json(reply: str, shown: Patterns) -> str:
    """Return the option that the last JSON object with an answer names."""
    for value in reversed(json_objects(reply)):
        for key, said in value.items():
            if _KEY.fullmatch(key) and isinstance(said, str):
                named = _named(said, 0, shown)
                return _one(named.letters) if named else ""
    return ""


_GAP = r"(?:[ ]+(?!is\b|ist\b|lautet\b|if\b)[\w'’/-]+){0,8}?"
# Phrases before the named option, with their weight: the heaviest that occurs decides.
_BEFORE = tuple(
    (weight, words, re.compile(pattern, re.I))
    for weight, words, pattern in (
        (3, True, rf"\b(?:final|finale|endgültige)\s+{_NOUN}\b{_GAP}\"?\s*(?:{_BE}\b|[:=-])?"),
        (2, True, rf"\b{_NOUN}\b[\"']?{_GAP}\s*(?:\b{_BE}\b|[:=]|[-–—]+>?|→)"),
        (2, True, r"\b(?:correct|right|richtig|korrekt|zutreffend)(?: one)?\s*(?:\b(?:is|ist|wäre|sind)\b|:)"),
        (2, False, r"\b(?:answer|antwort|lösung)(?=\s)"),
        (
            2, True,
            r"\b(?:I|we|ich|wir)\b(?:['’]\w+)?(?: \w+){0,3}? (?:choose|select|pick|go with|going with|"
            r"go for|opt for|say|answer|vote for|settle on|wähle|nehme|sage|tippe auf|würde|bevorzuge|"
            r"entscheide mich für)\b",
        ),
        (2, False, r"(?:\b(?:therefore|thus|hence|so|daher|somit|folglich|deshalb)\b|=>|→|∴),?"),
        (1, False, r"\b(?:it|this|that|es|das|dies)(?: (?:is|must be|should be|has to be|ist|muss)|['’]s)\b"),
        (1, False, r"\b(?:leaves?|leaving|points? to|go with|choose|pick|select)\b(?: us)?(?: only)?"),
    )
)  # fmt: skip
# Phrases after the named option.
_AFTERWARDS = (
    (
        2,
        re.compile(
            rf"\W{{0,3}}\s*,?\s*{_BE}(?: (?:{_LIKELY}|the|die|der|das|my|meine|our|only|single|one))* "
            rf"(?:(?:{_CORRECT}|most \w+) )?(?:{_NOUN}|one)\b",
            re.I,
        ),
    ),
    (
        1,
        re.compile(
            rf"\W{{0,3}}\s*(?:,?\s*{_BE}\s+(?:{_LIKELY} )*|[-–:(]\s*|)(?:{_CORRECT}|✓|✔|✅)(?!\w)"
            r"|\W{0,2}\s*(?:stimmt|trifft zu)\b",
            re.I,
        ),
    ),
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|nicht|kein\w*|neither|nor|weder|noch|incorrect|wrong|false|falsche?|unlike|"
    r"might think|tempting|whether|why|could argue)\b|n['’]t\b)[^.;:\n]{0,25}\Z",
    re.I,
)
_CONCLUDES = re.compile(
    r"\b(?:final(?:ly)?|therefore|thus|hence|so|conclusion|conclude|overall|actually|wait|correction|"
    r"sorry|daher|somit|folglich|deshalb|also|endgültig\w*|schließlich|fazit)\b[^.;\n]{0,60}\Z",
    re.I,
)


class Statement(NamedTuple):
    """One place of a reply that says which option is right."""

    start: int
    weight: int
    letters: frozenset[str]
    concludes: bool


def _stated(reply: str, shown: Patterns) -> str:
    """Return the option that the reply states, UNCLEAR if it states several."""
    found = [*_stated_before(reply, shown), *_stated_after(reply, shown)]
    if first := _chosen_line(reply, shown):
        found.append(Statement(0, 2, frozenset(first), False))
    if not found:
        return ""
    weight = max(statement.weight for statement in found)
    heaviest = sorted(statement for statement in found if statement.weight == weight)
    letters = frozenset[str]().union(*(statement.letters for statement in heaviest))
    last = heaviest[-1]
    if len(letters) > 1 and (last.concludes or weight == 3):
        letters = last.letters
    return _one(letters)


def _stated_before(reply: str, shown: Patterns) -> Iterator[Statement]:
    for weight, words, pattern in _BEFORE:
        for cue in pattern.finditer(reply):
            named = _named(reply, cue.end(), shown, words)
            if named is None or _WRONG_AFTER.match(reply, named.end):
                continue
            before = reply[: cue.end()]
            if _DENIED.search(before[max(0, cue.start() - 30) :]):
                continue
            yield Statement(cue.start(), weight, named.letters, bool(_CONCLUDES.search(before)))


def _stated_after(reply: str, shown: Patterns) -> Iterator[Statement]:
    places = {found.start() for found in re.finditer(r"(?<![\w'’-])[(\[]?[A-Za-z]\b(?!['’-]\w)", reply)}
    places |= {found.start() for _, pattern in shown for found in pattern.finditer(reply)}
    for place in sorted(places):
        named = _named(reply, place, shown)
        if named is None or _DENIED.search(reply[max(0, place - 30) : place]):
            continue
        for weight, pattern in _AFTERWARDS:
            if pattern.match(reply, named.end):
                concludes = bool(_CONCLUDES.search(reply[:place]))
                yield Statement(place, weight, named.letters, concludes)
                break


_LINE = re.compile(
    rf"^(?:(?:{_NOUN})\s+)?(?=[(\[]?[A-Za-z](?:\s?[.):\]]|\s*$|,|;|\s[-–—(]|[–—]|\s(?:because|since|weil|da)\b))",
    re.I | re.M,
)


def _chosen_line(reply: str, shown: Patterns) -> str:
    """Return the letter that the first line starts with or the last consists of.

    A run of labels in ascending order is the list of options repeated, no choice.
    """
    labels = []
    for line in _LINE.finditer(reply):
        named = _named(reply, line.start(), shown, words=False)
        if named:
            labels.append((line.start(), named))
    if not labels:
        return ""
    letters = [_one(named.letters) for _, named in labels]
    listed = len(letters) > 1 and letters == sorted(letters) and len(set(letters)) > 1
    (start, first), (_, last) = labels[0], labels[-1]
    at_end = not re.search(r"\w", reply[last.end :])
    alone = at_end and (len(set(letters)) == 1 or not listed)
    chosen = set()
    if start == 0 and not listed and not _WRONG_AFTER.match(reply, first.end):
        chosen |= first.letters
    if alone and not _lists_options(reply[: labels[-1][0]]):
        chosen |= last.letters
    return _one(chosen) if chosen else ""


def _lists_options(before: str) -> bool:
    """Say whether what stands before a label announces a list of options."""
    announced = r"(?:each|options|choices|consider|analy|evaluat|optionen|antworten|betracht)[^\n]*\Z"
    return bool(re.search(announced, before.strip(), re.I))


_AT_END = re.compile(rf"(?:\b{_NOUN} ?|[(\[])([A-Z])[)\]]?\W*\Z", re.I)


def _bare(reply: str, shown: Patterns) -> str:
    """Return the one letter of a very short reply, or the one that ends a reply of one letter."""
    ending = _AT_END.search(reply)
    letters = set(re.findall(r"(?<![\w'’-])([B-HJ-Z])(?![\w'’]|-\w)", reply))
    if ending and not _DENIED.search(reply[: ending.start()]) and letters <= {ending.group(1).upper()}:
        return ending.group(1).upper()
    last = re.search(r"(?<![\w'’-])([B-HJ-Z])[.!)\"]*\Z", reply)
    if last and len(reply.split()) <= 5 and len(letters) == 1 and not _DENIED.search(reply[: last.start()]):
        return last.group(1)
    return ""


def _in_words(reply: str, shown: Patterns) -> str:
    """Return the option whose words open the reply, end its one sentence, or are its last line."""
    opening = re.compile(r"(?:(?:it|this|es|dies|das) (?:is|ist) )?", re.I).match(reply)
    named = _named(reply, opening.end() if opening else 0, shown)
    if named and _AFTER_WORDS.match(reply, named.end):
        return "" if _WRONG_AFTER.match(reply, named.end) else _one(named.letters)
    last = reply.rsplit("\n", 1)[-1].strip(" .!")
    found = {letter for letter, pattern in shown if pattern.fullmatch(last)}
    if found:
        return _one(found)
    sentence = reply.rstrip(" .!")
    if re.search(r"[.!?]\s", sentence) or len(sentence.split()) > 20:
        return ""
    rest, letters, ends = sentence, set(), False
    for letter, pattern in shown:
        for place in list(pattern.finditer(rest)):
            if not _DENIED.search(rest[: place.start()]):
                letters.add(letter)
                ends = ends or place.end() == len(rest)
        rest = pattern.sub(lambda words: "\0" * len(words.group()), rest)
    return _one(letters) if ends else ""


_AFTER_WORDS = re.compile(r"\s*(?:\Z|\n|[.,;:!(–—])|\s+(?:-|because|since|as|due|weil|da|denn)\b", re.I)


def _one(letters: Iterable[str]) -> str:
    found = set(letters)
    return found.pop() if len(found) == 1 else UNCLEAR
