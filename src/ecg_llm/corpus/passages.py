"""Documents cut into passages at headings and sentences, with exact offsets."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ecg_llm import config
from ecg_llm.contracts import TokenCounter
from ecg_llm.corpus.clean import HEADING, Section, page_at, sections
from ecg_llm.corpus.quality import without
from ecg_llm.records import Document, Passage
from ecg_llm.sentences import sentences


def cut(
    document: Document, text: str, count: TokenCounter, settings: config.Passages
) -> list[Passage]:
    """Return the document's passages in order; `text[start:end] == passage.text` for each.

    A passage stays under one heading path and of one kind, ends with a sentence or a table row
    where one ends within the budget, and else with a word; a row longer than the budget stays
    whole. Headings belong to the passage that
    they head. `tokens` counts by `count`, word by word, whatever the unit of the budget.

    Args:
        document: Its row; `quality["hidden_spans"]` holds the offsets of invisible text.
        text: Its text.
        count: Tokens of texts; called once, for the distinct words, unless some are endless.
        settings: Budget, overlap and unit.
    """
    ruler = _Ruler(text, count, settings)
    gone = _hidden_spans(document)
    spans = [
        (part, hidden, span)
        for part, hidden in _visible(_merged(without(text, gone)), gone)
        for span in ruler.spans(part.start, part.end)
    ]
    joined = [text[start:end] for _, _, (start, end) in spans if ruler.cuts_words(start, end)]
    again = dict(zip(joined, count(joined), strict=True)) if joined else {}
    return [
        Passage(
            passage_id=Passage.id_for(document.doc_id, start, end, text[start:end]),
            doc_id=document.doc_id,
            start=start,
            end=end,
            page_from=page_at(document.page_starts, start),
            page_to=page_at(document.page_starts, end - 1),
            section=" > ".join(part.headings),
            kind=part.kind,
            hidden=hidden,
            text=text[start:end],
            tokens=again.get(text[start:end], ruler.tokens(start, end)),
        )
        for part, hidden, (start, end) in spans
    ]


class _Ruler:
    """Measures stretches of a text in the unit of the budget, by its words."""

    def __init__(self, text: str, count: TokenCounter, settings: config.Passages) -> None:
        self._text = text
        self._budget = settings.tokens
        self._overlap = min(settings.overlap, settings.tokens // 2)
        longest = settings.tokens  # a longer run of letters (no spaces, a key) is cut inside
        self._words = [match.span() for match in re.finditer(rf"\S{{1,{longest}}}", text)]
        self._starts = [start for start, _ in self._words]
        ends = [0, *(end for _, end in self._words)]
        self._joints = [
            index for index, start in enumerate(self._starts) if index and start == ends[index]
        ]
        self._characters = settings.unit == "characters"
        strings = [text[start:end] for start, end in self._words]
        distinct = list(dict.fromkeys(strings))
        costs = dict(zip(distinct, count(distinct), strict=True)) if distinct else {}
        self._sums = list(accumulate(map(costs.__getitem__, strings), initial=0))
        self._sentences = [bisect_left(self._starts, start) for start, _ in sentences(text)]

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the passages of text[start:end] as offsets, each within the budget."""
        first, stop = bisect_left(self._starts, start), bisect_left(self._starts, end)
        reached = first
        while reached < stop:
            limit = self._furthest(first, stop)
            place = self._last_sentence(reached, limit, stop)
            if place is None and first < reached:  # the overlap leaves no room: do without
                first = reached
                continue
            last = place or self._cut(reached, limit, stop)
            yield self._words[first][0], min(self._words[last - 1][1], end)
            reached = last
            first = self._back(first, last) if last < stop else last

    def _cut(self, reached: int, limit: int, stop: int) -> int:
        """Return where to cut a sentence too long for the budget: at a word; a row never."""
        index = bisect_right(self._sentences, reached)
        begin = self._words[self._sentences[index - 1]][0] if index else 0
        if not self._text.startswith("|", begin):
            return max(limit, reached + 1)
        return min(self._sentences[index], stop) if index < len(self._sentences) else stop

    def tokens(self, start: int, end: int) -> int:
        """Return the number of tokens of text[start:end]."""
        return (
            self._sums[bisect_left(self._starts, end)]
            - self._sums[bisect_left(self._starts, start)]
        )

    def cuts_words(self, start: int, end: int) -> bool:
        """Tell whether text[start:end] holds letters that were too many for one word."""
        first, stop = bisect_left(self._starts, start), bisect_left(self._starts, end)
        return any(
            first < joint < stop for joint in self._joints[bisect_left(self._joints, first) :][:2]
        )

    def _length(self, first: int, last: int) -> int:
        if self._characters:
            return self._words[last - 1][1] - self._words[first][0]
        return self._sums[last] - self._sums[first]

    def _furthest(self, first: int, stop: int) -> int:
        """Return the word after the last that fits with `first` into the budget."""
        low, high = first, stop
        while low < high:
            middle = (low + high + 1) // 2
            if self._length(first, middle) <= self._budget:
                low = middle
            else:
                high = middle - 1
        return low

    def _last_sentence(self, reached: int, limit: int, stop: int) -> int | None:
        """Return the last sentence start in (reached, limit], or None."""
        if limit >= stop:
            return stop
        index = bisect_right(self._sentences, limit) - 1
        place = self._sentences[index] if index >= 0 else 0
        return place if place > reached else None

    def _back(self, first: int, last: int) -> int:
        """Return where the next passage starts so that it repeats at most the overlap."""
        if not self._overlap:
            return last
        start = last
        while start > first + 1 and self._length(start - 1, last) <= self._overlap:
            start -= 1
        sentence = bisect_left(self._sentences, start)
        if sentence < len(self._sentences) and self._sentences[sentence] < last:
            return self._sentences[sentence]
        begin = self._words[self._sentences[sentence - 1]][0] if sentence else 0
        return last if self._text.startswith("|", begin) else start


def _merged(text: str) -> list[Section]:
    """Return the sections, those that hold nothing but headings joined to the next."""
    merged: list[Section] = []
    pending: Section | None = None
    for section in sections(text):
        lines = text[section.start : section.end].split("\n")
        bare = all(not line.strip() or HEADING.match(line) for line in lines)
        deeper = pending is not None and (
            section.kind == pending.kind or section.kind in ("table", "caption")
        )
        if pending is not None:
            if deeper and section.headings[: len(pending.headings)] == pending.headings:
                section = section._replace(start=pending.start)
            else:
                merged.append(pending)
        pending = section if bare else None
        if not bare:
            merged.append(section)
    return [*merged, pending] if pending else merged


def _hidden_spans(document: Document) -> list[tuple[int, int]]:
    flat = document.quality.get("hidden_spans", ())
    return list(zip(flat[::2], flat[1::2], strict=False)) if isinstance(flat, tuple) else []


def _visible(
    parts: Sequence[Section], hidden: Sequence[tuple[int, int]]
) -> Iterator[tuple[Section, bool]]:
    """Yield the sections cut where hidden text begins and ends, and whether they are hidden."""
    for part in parts:
        at = part.start
        for start, end in hidden:
            if start < part.end and end > at:
                if start > at:
                    yield part._replace(start=at, end=start), False
                yield part._replace(start=max(start, at), end=min(end, part.end)), True
                at = min(end, part.end)
        if at < part.end:
            yield part._replace(start=at), False
