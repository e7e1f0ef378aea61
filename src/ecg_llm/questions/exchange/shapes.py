"""Fields of other makers' question files to the parts of a question."""

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ecg_llm.questions.exchange.entries import QUESTION
from ecg_llm.questions.words import plain_text
from ecg_llm.records import LETTERS

FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "id", "qid", "uid", "pubid"),
    "kind": ("kind", "type", "question_type"),
    "difficulty": ("difficulty",),
    "question": QUESTION,
    "options": ("options", "choices"),
    "answer": ("answer_idx", "answer", "key", "correct", "correct_answer", "correct_option",
               "answerkey", "answer_key", "cop", "final_decision", "gold", "target", "label",
               "antwort"),
    "reference": ("reference", "reference_answer", "explanation", "rationale", "exp",
                  "long_answer", "ideal_answer"),
    "context": ("context", "abstract", "contexts", "snippets"),
    "evidence": ("evidence", "quote", "supporting_text"),
    "document": ("document", "source_file", "file", "filename", "file_name", "path"),
    "licence": ("licence", "license"),
    "language": ("language", "lang"),
    "section": ("section",),
}  # fmt: skip
"""What a question has: names that files use for it, the first that holds something counts."""
CHOICE = ("choice", "mcq", "multiple_choice", "multiple choice")
DECISIONS = ("yes", "no", "maybe")
"""Options of PubMedQA."""
OPTION_COLUMN = re.compile(
    r"(?:(?:option|choice|answer|antwort|op)[_ -]?)?([a-j])|(?:option|choice|answer)[_ -]?(\d{1,2})"
)
LETTER = re.compile(r"\(?([A-Za-z])[).:]?(?:\s+(.+))?", re.DOTALL)
LINE_RANGE = re.compile(r"\d+\s*[-–]\s*\d+")
MARK = re.compile(r"(?<!\S)(\(?)([A-Ja-j])([).:])(?=\s)")
"""What can stand before an option that is written into the question."""
STEM_END = re.compile(r"[?.:!…][\"'”’)]*$")


class Option(NamedTuple):
    """One option of a question, with its letter or number and its place in the file's list."""

    label: str
    place: int
    text: str
    raw: object


class Parts(NamedTuple):
    """What an entry says of a question, in words of ours."""

    texts: Mapping[str, str]
    """By the names of FIELDS, "" where there is nothing."""
    options: tuple[Option, ...]
    choice: bool
    key: object
    """How the file names the right option."""
    note: str = ""
    problem: str = ""

    @property
    def number(self) -> int | None:
        """The right option as a number, where it is given so."""
        if isinstance(self.key, bool):
            return None
        # pandas writes "2.0" where a column has gaps.
        found = re.fullmatch(r"(-?\d{1,6})(?:\.0)?", text_of(self.key))
        return int(found[1]) if found else None


def parts(fields: Mapping[str, object]) -> Parts:
    """Return the parts of a question in the shape of MedQA, MedMCQA, MMLU, PubMedQA or the paper.

    Options that are written into the question, as "... A) one B) two", are taken out only where
    the answer is a letter, the question ends as a sentence does before the first one, and each of
    the letters from A on stands exactly once in this way, outside of parentheses. A context that is
    a range of lines (the paper's files) becomes a note and is not shown.
    """
    get = {field: first_of(fields, names) for field, names in FIELDS.items()}
    texts = {field: text_of(value) for field, value in get.items()}
    options, problem = _options(fields, get["options"])
    key, note = get["answer"], ""
    if LINE_RANGE.fullmatch(texts["context"]):
        note, texts["context"] = f"lines {texts['context']}", ""
    if first_of(fields, ("models",)) is not None and isinstance(key, list):
        problem = problem or "answers of several models, not one right answer"
    if not options and not problem:
        if first_of(fields, ("final_decision",)) is not None:
            options = _lettered(DECISIONS)
            key = fields["final_decision"]
        elif isinstance(key, bool) or (isinstance(key, str) and key.lower() in ("true", "false")):
            options = _lettered(("True", "False"))
        elif isinstance(key, str) and _names_letter(key):
            inside = options_inside(texts["question"])
            if inside:
                texts["question"], options = inside[0], _lettered(inside[1])
            elif texts["kind"].lower() not in CHOICE:
                problem = (
                    "the answer is a letter, but neither fields nor an unmistakable A) ... B) ... "
                    "in the question give the options"
                )
    options = _without_labels(options)
    if key is None:
        key = _marked(get["options"])
    if not problem:
        problem = _contradiction(fields, options)
    choice = bool(options) or texts["kind"].lower() in CHOICE
    return Parts(texts, options, choice, key, note, problem)


def options_inside(question: str) -> tuple[str, tuple[str, ...]] | None:
    """Return a question without the options written into it, and them; None if it is in doubt."""
    styles: dict[tuple[str, str, bool], list[re.Match[str]]] = {}
    depths = list(accumulate(question, _depth, initial=0))
    for mark in MARK.finditer(question):
        if bool(mark[1]) != (mark[1] + mark[3] == "()"):
            continue
        if mark[3] == ")" and not mark[1] and depths[mark.start()]:
            continue
        styles.setdefault((mark[1], mark[3], mark[2].isupper()), []).append(mark)
    found = []
    begun = [marks for marks in styles.values() if {"A", "B"} <= {m[2].upper() for m in marks}]
    for marks in begun:
        letters = "".join(mark[2].upper() for mark in marks)
        ends = [*(mark.start() for mark in marks[1:]), len(question)]
        spans = zip(marks, ends, strict=True)
        texts = tuple(question[mark.end() : end].strip(" \t\n;") for mark, end in spans)
        stem = question[: marks[0].start()].strip()
        complete = len(marks) > 1 and letters == LETTERS[: len(letters)] and all(texts)
        if complete and STEM_END.search(stem):
            found.append((stem, texts))
    return found[0] if len(found) == len(begun) == 1 else None


def _depth(depth: int, sign: str) -> int:
    """Return how many parentheses are open after this sign."""
    return depth + 1 if sign == "(" else max(0, depth - 1) if sign == ")" else depth


def first_of(fields: Mapping[str, object], names: Iterable[str]) -> object:
    """Return the first of these fields that holds something."""
    return next((fields[name] for name in names if not _empty(fields.get(name))), None)


def _empty(value: object) -> bool:
    blank = isinstance(value, str) and not value.strip()
    return blank or value is None or value == [] or value == {} or value != value  # NaN


def text_of(value: object) -> str:
    """Return a field as text; the parts of a list on lines of their own, so of an object."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, map(text_of, value)))
    if isinstance(value, dict):
        inner = [value[name] for name in ("text", "contexts", "value") if name in value]
        return text_of(inner[:1] or list(value.values()))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # JSON can escape half a surrogate pair, which no UTF-8 file can hold.
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def _options(fields: Mapping[str, object], value: object) -> tuple[tuple[Option, ...], str]:
    """Return the options that hold something, and what is wrong with their shape."""
    if isinstance(value, str):
        value = _literal(value)
        if value is None:
            return (), "its options are one text; give a list, or columns option_a, option_b ..."
    pairs: list[tuple[str, object]] = []
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        pairs = _labelled(value["text"], value.get("label"))
    elif isinstance(value, dict):
        pairs = [(str(label), text) for label, text in value.items()]
        if all(re.fullmatch(r"[A-Za-z]|\d{1,2}", label) for label, _ in pairs):
            pairs.sort(key=lambda pair: (len(pair[0]), pair[0]))
    elif isinstance(value, list):
        pairs = _labelled(value, None)
    else:
        columns = {name: OPTION_COLUMN.fullmatch(name) for name in fields}
        named = [(found[1] or found[2], name) for name, found in columns.items() if found]
        pairs = [
            (label, fields[name])
            for label, name in sorted(named, key=lambda pair: (len(pair[0]), pair[0]))
        ]
    every = [Option(label.upper(), i, text_of(raw), raw) for i, (label, raw) in enumerate(pairs)]
    return tuple(option for option in every if option.text), ""


def _literal(text: str) -> object:
    """Return the list or mapping that a cell holds as JSON or as Python writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list | dict) else None
    return None


def _labelled(texts: Sequence[object], labels: object) -> list[tuple[str, object]]:
    given = labels if isinstance(labels, list) and len(labels) == len(texts) else None
    names = [str(label) for label in given] if given else [*LETTERS, *[""] * len(texts)]
    return list(zip(names, texts, strict=False))


def _lettered(texts: Sequence[str]) -> tuple[Option, ...]:
    return tuple(Option(LETTERS[i], i, text, text) for i, text in enumerate(texts))


def _without_labels(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Return the options without their own letters, where each text begins with its letter."""
    found = [re.match(r"\(?([A-Za-z])[).:]\s+(?=\S)", option.text) for option in options]
    if all(
        match and match[1].upper() == option.label
        for match, option in zip(found, options, strict=True)
    ):
        return tuple(
            option._replace(text=option.text[match.end() :])
            for match, option in zip(found, options, strict=True)
            if match
        )
    return options


def _marked(options: object) -> object:
    """Return the letter of the one option that says is_correct (the paper's own files)."""
    entries = options if isinstance(options, list) else []
    right = [
        i
        for i, entry in enumerate(entries)
        if isinstance(entry, dict) and text_of(entry.get("is_correct")).lower() in ("true", "1")
    ]
    return LETTERS[right[0]] if len(right) == 1 and right[0] < len(LETTERS) else None


def _names_letter(key: str) -> bool:
    letter = LETTER.fullmatch(key.strip())
    if letter is None or letter[1].upper() > "J":
        return False
    return not letter[2] or bool(re.match(r"\(?[A-Ja-j][).:]", key.strip()))


def _contradiction(fields: Mapping[str, object], options: Sequence[Option]) -> str:
    """Return what is wrong where a file names the key twice, by letter and by text (MedQA)."""
    letter, answer = fields.get("answer_idx"), fields.get("answer")
    if not isinstance(letter, str) or not isinstance(answer, str) or not options:
        return ""
    told = [option for option in options if option.label == letter.strip().upper()]
    if not told or not answer.strip():
        return ""
    same = plain_text(answer) == plain_text(told[0].text) or answer.strip().upper() == told[0].label
    return "" if same else "answer and answer_idx name different options"
