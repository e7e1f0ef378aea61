"""Answers by what they cite: abstentions, claims with keys, claims borne out, keys made up."""

from collections.abc import Iterator, Mapping, Sequence

from ecg_llm.citing import Checked, Reply, abstains, checked, keys
from ecg_llm.contracts import Embedder
from ecg_llm.records import Answer, Passage, Question, Score
from ecg_llm.score.overlap import blank

METHOD = "lexical and by embedding, no model"
TOLD = 3
"""Unsupported claims that a note quotes."""
LENGTH = 120
"""Characters of each."""


class CitationScorer:
    """Open answers by their citations; a `contracts.Scorer`.

    claims_supported is lexical and by embedding, no model: it finds claims that are not there,
    numbers and leads that differ, and most directions and negations that are turned round. See
    citing.py for how, and for what it is worth. `passages` holds those that answers were shown.
    """

    metrics: tuple[str, ...] = ("abstained", "claims_cited", "claims_supported", "keys_not_given")

    def __init__(self, embedder: Embedder, passages: Mapping[str, Passage]) -> None:
        self.embedder = embedder
        self.passages = passages

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return four scores for every answer to an open question.

        A failed answer scores "error", a refused one "unparsed". Without passages only abstained
        applies, and an answer without claims has none to cite or support.
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
                replies.append((answer, Reply(answer.text, question.question, shown)))
            else:
                scores += [
                    _score(answer, name, status="not_applicable", note="no passages were given")
                    for name in self.metrics[1:]
                ]
        found = checked([reply for _, reply in replies], self.embedder)
        for (answer, _), claims in zip(replies, found, strict=True):
            scores += _cited(answer, claims)
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


def _cited(answer: Answer, claims: Sequence[Checked]) -> Iterator[Score]:
    """Yield the scores of an answer that was shown passages."""
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
        yield _score(answer, "claims_supported", share, note=note)
    else:
        for name in ("claims_cited", "claims_supported"):
            yield _score(answer, name, status="not_applicable", note="no claims")
    _, unknown = keys(answer.text, len(answer.passages))
    note = ", ".join(f"[{key}]" for key in unknown[:10])
    yield _score(answer, "keys_not_given", float(len(unknown)), note=note)


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
