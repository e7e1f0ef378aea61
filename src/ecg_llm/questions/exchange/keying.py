"""Which option a question file calls the right one: by letter, by text, or by a number."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ecg_llm.contracts import UsageError
from ecg_llm.questions.exchange.shapes import LETTER, Parts, text_of
from ecg_llm.questions.words import plain_text

TRUTH = {True: ("true", "yes"), False: ("false", "no")}


class Keying(NamedTuple):
    """How a file names its right options."""

    numbers: bool
    """Every key is a place; else a number may also be an option's text or label."""
    letters: bool
    """Every key is a label; else a letter may also be an option's text."""
    first: int | None
    """What the first place is counted as, 0 or 1; None: the file does not show it."""


def keying(questions: Sequence[Parts], first: int | None, name: str) -> Keying:
    """Return how a file names its right options; `first` is what the study says, if anything.

    Keys are places if all of the file are whole numbers and one is not itself an option; otherwise
    a number is a place only where it is no option and no label. Places count from 0 if a 0 occurs,
    from 1 if the number of options occurs: the original MedMCQA counts from 1, its copy on Hugging
    Face from 0, and no single row can tell.

    Raises:
        UsageError: all keys are places, and neither or both of these occur.
    """
    keyed = [row for row in questions if row.options and row.key is not None and row.number != -1]
    numbers = all(row.number is not None for row in keyed) and not all(map(_named, keyed))
    letters = all(_labelled_place(row) is not None for row in keyed)
    if first is not None:
        return Keying(numbers, letters, first)
    placed = [row for row in keyed if numbers or not _named(row)]
    zero = any(row.number == 0 for row in placed)
    full = any(row.number == row.options[-1].place + 1 for row in placed)
    if zero != full:
        return Keying(numbers, letters, 0 if zero else 1)
    if numbers and any(0 <= (row.number or 0) <= row.options[-1].place + 1 for row in placed):
        seen = "both 0 and" if zero else "neither 0 nor"
        raise UsageError(
            f"{name} gives right options by number, and {seen} the number of options occurs, so it "
            "does not show whether it counts from 0 or from 1; set key_from in questions.imports."
        )
    return Keying(numbers, letters, None)


def right_option(row: Parts, keys: Keying) -> int | None:
    """Return the place of the right one among the options, or None if none or several are named."""
    texts = [plain_text(option.text) for option in row.options]
    if row.number is not None and (keys.numbers or not _named(row)):
        place = None if keys.first is None else row.number - keys.first
        return _only(option.place == place for option in row.options)
    if isinstance(row.key, bool):
        return _only(text in TRUTH[row.key] for text in texts)
    key = text_of(row.key) if isinstance(row.key, str | int | float) else ""
    by_label = _labelled_place(row)
    by_text = _only(text == plain_text(key) for text in texts)
    if by_label is not None:
        return by_label if keys.letters or by_text in (None, by_label) else None
    both = LETTER.fullmatch(key)
    if by_text is None and both and both[2]:
        return _only(
            option.label == both[1].upper() and text == plain_text(both[2])
            for option, text in zip(row.options, texts, strict=True)
        )
    return by_text


def _labelled_place(row: Parts) -> int | None:
    """Return the place of the option whose label the key is."""
    key = text_of(row.key) if isinstance(row.key, str | int) else ""
    letter = LETTER.fullmatch(key)
    names = {key.upper(), letter[1].upper() if letter and not letter[2] else ""} - {""}
    return _only(option.label in names for option in row.options)


def _named(row: Parts) -> bool:
    """Return whether the key, a number, is itself an option or an option's label."""
    return any(row.key == option.raw or text_of(row.key) == option.label for option in row.options)


def _only(hits: Iterable[bool]) -> int | None:
    found = [place for place, hit in enumerate(hits) if hit]
    return found[0] if len(found) == 1 else None
