"""Answers by what they cite: abstentions, claims with keys, claims borne out, keys made up."""

from collections.abc import Iterator, Mapping, Sequence

from ecg_llm.citing import Checked, Reply, abstains, checked, keys
from ecg_llm.contracts import Embedder
from ecg_llm.records import Answer, Passage, Question, Score
from ecg_llm.score.overlap import blank, without_role

METHOD = "lexical and by embedding, no model"
TOLD = 3
"""Unsupported claims that a note quotes."""
LENGTH = 120
"""Characters of each."""


class CitationScorer:
    """Open answers by their citations; a `contracts.Scorer`.

    Recall and precision are those of ALCE (Gao et al. 2023, arXiv 2305.14627), but for its model of
    entailment and for passages that bear a claim out only together, which count as wrong here:
    citation_recall is the share of claims that a passage cited for them bears out,
    citation_precision the share of (claim, key) citations whose passage does; a key that was not
    given is a wrong one. Both are lexical and by embedding, no model: they find claims that are not
    there, numbers and leads that differ, and most directions and negations that are turned round.
    See citing.py for how, and for what it is worth. `passages` holds those that answers were shown.
    """

    metrics: tuple[str, ...] = (
        "abstained",
        "claims_cited",
        "citation_recall",
        "citation_precision",
        "keys_not_given",
    )

    def __init__(self, embedder: Embedder, passages: Mapping[str, Passage]) -> None:
        self.embedder = embedder
        self.passages = passages

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return five scores for every answer to an open question.

        A failed answer scores "error", a refused one "unparsed". Without passages only abstained
        applies, an answer without claims has none to cite or support, and one that cites nothing
        for its claims has no precision.
        """
        scores, replies = [], []
        for question, answer in items:
            if question.kind != "open":
                continue
            status, note = self._unscorable(answer)
            if status:
                scores += [_score(answer, name, status=status, note=note) for name in self.metrics]
                continue
            scores.append(_abstained(answer))
            if answer.passages:
                shown = [self.passages[found.passage_id] for found in answer.passages]
                said = without_role(answer.text)
                replies.append((answer, Reply(said, question.question, shown)))
            else:
                scores += [
                    _score(answer, name, status="not_applicable", note="no passages were given")
                    for name in self.metrics[1:]
                ]
        found = checked([reply for _, reply in replies], self.embedder)
        for (answer, reply), claims in zip(replies, found, strict=True):
            scores += _cited(answer, reply.answer, claims)
        return scores

    def _unscorable(self, answer: Answer) -> tuple[str, str]:
        """Return the status of an answer that cannot be scored and why, or ("", "")."""
        if answer.status == "error":
            return "error", answer.reason
        if answer.status == "refused":
            return "unparsed", f"refused: {answer.reason}"
        for found in answer.passages:
            if found.passage_id not in self.passages:
                return "error", f"passage {found.passage_id} is not in passages.jsonl"
        return "", ""


def _abstained(answer: Answer) -> Score:
    said = abstains(answer.text)
    note = "" if answer.text.strip() else "empty answer"
    return _score(answer, "abstained", float(said), "abstained" if said else "", note)


def _cited(answer: Answer, text: str, claims: Sequence[Checked]) -> Iterator[Score]:
    """Yield the scores of an answer that was shown passages; claims are places in `text`."""
    if claims:
        number = len(claims)
        cited = sum(bool(found.claim.keys) for found in claims)
        yield _score(answer, "claims_cited", cited / number, note=f"{cited} of {number}")
        failed = [found for found in claims if not found.supported]
        told = "; ".join(
            f"{found.problem}: {found.claim.text[:LENGTH]!r}" for found in failed[:TOLD]
        )
        share = (number - len(failed)) / number
        note = f"{number - len(failed)} of {number}, {METHOD}" + (f"; {told}" if told else "")
        yield _score(answer, "citation_recall", share, note=note)
        yield _precision(answer, text, claims)
    else:
        for name in ("claims_cited", "citation_recall", "citation_precision"):
            yield _score(answer, name, status="not_applicable", note="no claims")
    _, unknown = keys(answer.text, len(answer.passages))
    note = ", ".join(f"[{key}]" for key in unknown[:10])
    yield _score(answer, "keys_not_given", float(len(unknown)), note=note)


def _precision(answer: Answer, text: str, claims: Sequence[Checked]) -> Score:
    """Return the share of the citations of claims whose passage bears the claim out."""
    right = sum(quote.supports for found in claims for quote in found.quotes)
    number = 0
    for claim, _ in claims:
        known, unknown = keys(text[claim.start : claim.end], len(answer.passages))
        number += len(known) + len(unknown)
    name = "citation_precision"
    if not number:
        return _score(answer, name, status="not_applicable", note="no citations")
    return _score(answer, name, right / number, note=f"{right} of {number}, {METHOD}")


def _score(
    answer: Answer,
    metric: str,
    value: float | None = None,
    label: str = "",
    note: str = "",
    status: str = "scored",
) -> Score:
    update = {"value": value, "label": label, "note": note, "status": status}
    return blank(metric, answer).model_copy(update=update)
