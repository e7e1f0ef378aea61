"""Questions and quotes as texts: compared, found in a passage, the right option."""

from functools import lru_cache

from ecg_llm.records import LETTERS, Question
from ecg_llm.words import WINDOWS

ALIKE = str.maketrans(dict.fromkeys('“”„"’‘`´', "'") | dict.fromkeys("–—−‐‑", "-"))


def plain_text(text: str) -> str:
    """Return a text as compared for equality: lower case, single spaces, no full stop at the end.

    Signs stay, since "< 5" is not "> 5".
    """
    return " ".join(text.lower().split()).rstrip(". ")


def quoted_span(quote: str, text: str) -> str:
    """Return the part of the text that reads as the quote does, in the text's own characters.

    Case, white space, quotation marks, dashes, soft hyphens and Markdown emphasis do not count.
    Empty if there is none, or if the quote has fewer than three words and so proves nothing.
    """
    wanted = _plain(quote)[0].strip(" '…").removesuffix("...").strip()
    if len(wanted.split()) < 3:
        return ""
    plain, places = _plain(text)
    at = plain.find(wanted)
    return text[places[at] : places[at + len(wanted) - 1] + 1] if at >= 0 else ""


@lru_cache(WINDOWS)
def _plain(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the text as compared, and for each of its characters the place it came from."""
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character in "\u00ad*_":
            continue
        if character.isspace():
            if characters and characters[-1] == " ":
                continue
            character = " "
        for lowered in character.lower().translate(ALIKE):
            characters.append(lowered)
            places.append(place)
    return "".join(characters), tuple(places)


def correct_option(row: Question) -> str:
    """Return the text of the right option; "" where the answer names none."""
    place = LETTERS.find(row.answer) if row.answer else -1
    return row.options[place] if 0 <= place < len(row.options) else ""
