"""Documents to splits, before any question is written: whole groups, seeded, and frozen."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ecg_llm.config import Splits
from ecg_llm.contracts import UsageError
from ecg_llm.questions.splitting.groups import groups_of
from ecg_llm.records import Document, Passage, Placement, Split, digest
from ecg_llm.registry import suggestion

PARTS: tuple[Split, ...] = ("train", "test", "val")
"""What documents are divided into; an empty one is filled in this order."""
TRAINED: frozenset[Split] = frozenset({"train", "val"})
"""Splits that training or model selection sees."""


EXACT = 1e-9
"""Relative error of sums of shares: a tenth of ten equal documents is one of them."""


class Side(NamedTuple):
    """Where a group stands, and how it came there."""

    split: Split
    why: str


class Share(NamedTuple):
    """What a split got of the documents, beside what was asked for."""

    split: Split
    asked: float | None
    """Of the tokens; None where paths or nothing at all was asked for."""
    got: float
    documents: int
    groups: int
    tokens: int


def placements(
    documents: Sequence[Document],
    passages: Sequence[Passage],
    settings: Splits,
    seed: int,
    frozen: Sequence[Placement] = (),
) -> list[Placement]:
    """Return one row for every readable document, sorted by doc_id.

    Groups (see groups.groups_of) are placed whole. Paths and tags named in the settings come
    first. Then a group with a frozen document stays where that stands; if new text joins groups
    of two splits, they all go to train, since what was trained on must not be tested on. The
    other groups are drawn: in an order of chance each goes to test or val while its tokens fit
    into what that split lacks of its share of the tokens, else to train; so a group too large
    for both goes to train. Last, a split without text gets the smallest group of one that has
    several.

    Args:
        documents: All, read or not.
        passages: The usable ones.
        settings: Shares, paths and tags; shares are of what no path claims.
        seed: Decides the order of chance.
        frozen: Rows of an earlier call; those drawn under other settings do not count. A file that
            was changed in its place stays where it was.

    Raises:
        UsageError: a path or tag matches no document, or two splits claim one group.
    """
    groups = groups_of(documents, passages, settings.related)
    readable = {d.doc_id: d for d in documents if d.status in ("ok", "partial") and d.doc_id}
    tokens: Counter[str] = Counter()
    for passage in passages:
        tokens[passage.doc_id] += passage.tokens
    weights: Counter[str] = Counter({groups[doc_id]: 0 for doc_id in readable})
    for doc_id in readable:
        weights[groups[doc_id]] += tokens[doc_id]
    drawn = digest(settings.model_dump(mode="json", exclude={"seen"}), seed)
    before = _before(readable, [row for row in frozen if row.drawn == drawn])
    sides = _pinned([d for d in documents if groups.get(d.doc_id) in weights], groups, settings)
    pinned = set(sides)
    sides |= _stayed(before, groups, sides)
    sides |= _drawn(weights, sides, settings, seed)
    made = []
    for doc_id, document in sorted(readable.items()):
        group = groups[doc_id]
        split, why = sides[group]
        old = before.get(doc_id)
        if (
            old
            and old.split == split
            and (group not in pinned or old.why.startswith(f"{why}, was "))
        ):
            why = old.why
        elif old and old.split != split:
            why = f"{why}, was {old.split}"
        made.append(
            Placement(
                doc_id=doc_id, path=document.path, group=group, split=split, why=why,
                tokens=tokens[doc_id], drawn=drawn,
            )
        )  # fmt: skip
    return made


def _before(readable: Mapping[str, Document], frozen: Sequence[Placement]) -> dict[str, Placement]:
    """Return the earlier row of each document: of this content, else of what stood in its place."""
    contents = {row.doc_id: row for row in frozen}
    places = {row.path: row for row in frozen if row.doc_id not in readable}
    found = {
        doc_id: contents.get(doc_id) or places.get(document.path)
        for doc_id, document in readable.items()
    }
    return {doc_id: row for doc_id, row in found.items() if row}


def shares(rows: Sequence[Placement], settings: Splits) -> list[Share]:
    """Return what each split got, beside what was asked for."""
    asked = _asked(settings)
    total = sum(row.tokens for row in rows)
    found = []
    for part in ("train", "val", "test"):
        here = [row for row in rows if row.split == part]
        size = sum(row.tokens for row in here)
        groups = len({row.group for row in here})
        got = size / total if total else 0.0
        found.append(Share(part, asked.get(part), got, len(here), groups, size))
    return found


def tags_of(documents: Sequence[Document]) -> dict[str, tuple[str, ...]]:
    """Return the tags of every doc_id, those of its copies among them."""
    found: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        found[document.doc_id] |= set(document.tags)
    return {doc_id: tuple(sorted(tags)) for doc_id, tags in found.items() if doc_id}


def _asked(settings: Splits) -> dict[Split, float]:
    """Return the shares asked for, of 1; a split given by paths, or without a share, has none."""
    given = {part: s for part in PARTS if isinstance(s := getattr(settings, part), float) and s > 0}
    return {part: share / sum(given.values()) for part, share in given.items()}


def _claims(
    documents: Sequence[Document], settings: Splits
) -> Iterator[tuple[str, Side, list[Document]]]:
    """Yield every path and tag of the settings, where it sends documents, and which.

    Raises:
        UsageError: it matches none.
    """
    for part in PARTS:
        globs = getattr(settings, part)
        for glob in globs if isinstance(globs, tuple) else ():
            hits = [d for d in documents if fnmatchcase(d.path, glob)]
            if not hits:
                raise UsageError(
                    f"questions.split.{part}: {glob!r} matches no readable document; correct it."
                )
            yield part, Side(part, "pinned"), hits
    for tag, split in settings.tags.items():
        hits = [d for d in documents if tag in d.tags]
        if not hits:
            known = sorted({tag for document in documents for tag in document.tags})
            raise UsageError(
                f"questions.split.tags: no readable document carries the tag {tag!r}"
                + (suggestion(tag, known) if known else "; give it in documents.tags")
            )
        yield f"{split} (tag {tag})", Side(split, f"tag {tag}"), hits


def _pinned(
    documents: Sequence[Document], groups: Mapping[str, str], settings: Splits
) -> dict[str, Side]:
    sides: dict[str, Side] = {}
    by: dict[str, str] = {}
    for name, side, hits in _claims(documents, settings):
        for document in sorted(hits, key=lambda d: d.path):
            group = groups[document.doc_id]
            if sides.setdefault(group, side).split != side.split:
                raise UsageError(
                    f"questions.split: {document.path} belongs to the group {group!r}, which "
                    f"{by[group]} and {name} both claim; let one of them name it."
                )
            by.setdefault(group, name)
    return sides


def _stayed(
    before: Mapping[str, Placement], groups: Mapping[str, str], pinned: Mapping[str, Side]
) -> dict[str, Side]:
    """Return the sides of groups with frozen documents.

    Raises:
        UsageError: what was in train or val is now pinned to test.
    """
    sides: dict[str, Side] = {}
    for doc_id, row in sorted(before.items()):
        group = groups[doc_id]
        if group in pinned:
            if pinned[group].split == "test" and row.split in TRAINED:
                raise UsageError(
                    f"questions.split: {row.path} is in {row.split} since the split was drawn, but "
                    f"its group is now to be in test ({pinned[group].why}); take that back, or "
                    f"delete splits.jsonl to have everything drawn anew."
                )
        elif sides.setdefault(group, Side(row.split, "joined")).split != row.split:
            sides[group] = Side("train", "merged")
    return sides


def _drawn(
    weights: Mapping[str, int], taken: Mapping[str, Side], settings: Splits, seed: int
) -> dict[str, Side]:
    """Return the sides of the groups that have none yet."""
    free = sorted(set(weights) - set(taken))
    random.Random(seed).shuffle(free)
    asked = _asked(settings)
    if not asked:
        return dict.fromkeys(free, Side("train", "drawn"))
    draw = _Draw(weights, taken, asked)
    for group in free:
        draw.deal(group)
    draw.come_closer()
    draw.fill_empty()
    return draw.sides


class _Draw:
    """Groups dealt to the splits by their tokens, around those that have their place."""

    def __init__(
        self, weights: Mapping[str, int], taken: Mapping[str, Side], asked: Mapping[Split, float]
    ) -> None:
        self.sides: dict[str, Side] = {}
        self._weights = weights
        self._taken = taken
        # What stands in a split given by paths is shared out by nobody.
        shared = [g for g in weights if g not in taken or taken[g].split in asked]
        total = sum(weights[group] for group in shared)
        self._limits = {part: share * total for part, share in asked.items()}
        self._lacks = dict(self._limits)
        for group in shared:
            if group in taken:
                self._lacks[taken[group].split] -= weights[group]
        self._held_out: list[Split] = [part for part in asked if part != "train"]

    def deal(self, group: str) -> None:
        """Place a group where its tokens fit, else in train."""
        weight, lacks = self._weights[group], self._lacks
        fits = [part for part in self._held_out if 0 < weight <= lacks[part] + EXACT * weight]
        if fits:
            self._place(group, max(fits, key=lambda p: lacks[p] / self._limits[p]), "drawn")
        elif "train" not in self._limits:
            self._place(group, max(lacks, key=lambda part: lacks[part]), "drawn")
        elif self._held_out and not any(self._small(group, part) for part in self._held_out):
            self._place(group, "train", "too large")
        else:
            self._place(group, "train", "drawn" if weight else "empty")

    def come_closer(self) -> None:
        """Move the group to each split that brings it closest to its share, if one does."""
        for part in self._held_out:
            lack = self._lacks[part]
            near = [
                group
                for group, side in self.sides.items()
                if side.split == "train"
                and 0 < self._weights[group] < 2 * lack
                and self._small(group, part)
            ]
            if near:
                self._place(min(near, key=lambda g: abs(lack - self._weights[g])), part, "drawn")

    def fill_empty(self) -> None:
        """Give each split without text the smallest group of one that has several.

        The only text of val goes to test: without a test nothing is learnt.
        """
        for part in self._limits:
            sides = {**self._taken, **self.sides}
            texts = Counter(sides[group].split for group, weight in self._weights.items() if weight)
            spare = [
                (texts[side.split] == 1, self._weights[group], group)
                for group, side in self.sides.items()
                if self._weights[group]
                and (texts[side.split] > 1 or (part, side.split) == ("test", "val"))
            ]
            if not texts[part] and spare:
                self._place(min(spare)[2], part, "filled")

    def _small(self, group: str, part: Split) -> bool:
        """Tell whether a group is no larger than all that a split is to get."""
        return self._weights[group] <= self._limits[part] * (1 + EXACT)

    def _place(self, group: str, part: Split, why: str) -> None:
        if group in self.sides:
            self._lacks[self.sides[group].split] += self._weights[group]
        self._lacks[part] -= self._weights[group]
        self.sides[group] = Side(part, why)
