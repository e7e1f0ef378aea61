"""Whether claims are checked well and the extractive arm abstains well, measured.

    ecg-llm demo study
    python benchmarks/citing.py study --questions ../shared/questions/all_mcq.jsonl

The first: claims known to be borne out by a text (the handbook's 81 reference answers and their
parts against their own section, by rule paraphrased; with --questions also BioASQ's ideal answers
against their snippets) and the same claims spoilt by rule: another passage of the chapter, a number
changed, a sign turned round, a word turned round or exchanged for its clinical opposite, negated.
Settings were chosen on the even chapters and on every other BioASQ question; the rest is held out.
"Other word" holds swaps that are not all known to the check. "Written" are claims and their
opposites of tests/opposites.jsonl, English and German, each against its passage between two others;
the check was written with them in sight.

The second: questions that the handbook answers, that are of the field but that it leaves open
(tests/answer/open_questions.jsonl), and of other fields (MMLU's of --questions). Passages are the
five closest by embedding.
"""

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from ecg_llm.answer.extractive import ExtractiveAnswerer
from ecg_llm.citing import Reply, checked
from ecg_llm.contracts import NO_ANSWER, Task
from ecg_llm.embed import SentenceEmbedder
from ecg_llm.records import Document, Passage, Question
from ecg_llm.sentences import sentences
from ecg_llm.steps import read_table
from ecg_llm.testing import passage

OPPOSITES = Path(__file__).parents[1] / "tests" / "opposites.jsonl"
OPEN = Path(__file__).parents[1] / "tests" / "answer" / "open_questions.jsonl"
TURNED = """
longer/shorter prolonged/shortened lengthen/shorten elevation/depression left/right above/below
positive/negative upright/inverted faster/slower wide/narrow widens/narrows before/after
increases/decreases tall/small anterior/inferior anterograde/retrograde higher/lower
regular/irregular early/late absent/present longest/shortest
"""
OTHER = """
atrial/ventricular worsen/improve first/last start/end begins/ends arm/leg sodium/potassium
systolic/diastolic men/women precede/follow constant/variable slow/fast nodal/infranodal
orthodromic/antidromic
"""
CLINICAL = """
hypo~/hyper~ tachy~/brady~ recommended/contraindicated first/second second/third lead_I/lead_V1
type_1/type_2 Mobitz_I/Mobitz_II anterior/posterior inferior/superior proximal/distal acute/chronic
systolic/diastolic sensitive/specific positive/negative prolonged/shortened wide/narrow high/low
atrial/ventricular
"""
"""With ~ where a word goes on, _ for a space."""
PARAPHRASES: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
    (r"\b(\d+) ms\b", lambda match: f"{int(match[1]) / 1000:g} s"),
    (r"\bmore than\b", "above"),
    (r"\bbelow\b", "less than"),
    (r"\bprolonged\b", "lengthened"),
    (r"\busually\b", "mostly"),
    (r"\bbpm\b", "beats per minute"),
    (r"\bshows\b", "indicates"),
    (r"\bbecause\b", "since"),
    (r"\bwhereas\b", "while"),
    (r"\bbundle branch block\b", "BBB"),
    (r"\bventricular tachycardia\b", "VT"),
    (r"\bmust be\b", "has to be"),
)


class Labelled(NamedTuple):
    """A claim, its texts, and whether they bear it out."""

    part: str
    kind: str
    claim: str
    question: str
    passages: tuple[Passage, ...]

    @property
    def supported(self) -> bool:
        """Whether the texts bear the claim out."""
        return self.kind in ("reference", "paraphrase")


def swapped(text: str, pairs: str, rng: random.Random) -> str:
    """Return the text with one word replaced by its opposite, or ""."""
    found = []
    for pair in pairs.split():
        one, other = pair.split("/")
        for old, new in ((one, other), (other, one)):
            pattern = re.escape(old.rstrip("~").replace("_", " "))
            match = re.search(rf"(?i:\b{pattern})" + (r"(?=\w)" if "~" in old else r"\b"), text)
            if match:
                new = new.rstrip("~").replace("_", " ")
                found.append(text[: match.start()] + new + text[match.end() :])
    return rng.choice(found) if found else ""


def renumbered(text: str, rng: random.Random) -> str:
    """Return the text with one number changed, or ""."""
    found = list(re.finditer(r"\b\d+(?:\.\d+)?\b", text))
    if not found:
        return ""
    match = rng.choice(found)
    value = f"{float(match[0]) * rng.choice([0.5, 1.5, 2]):g}"
    return "" if value == match[0] else text[: match.start()] + value + text[match.end() :]


def signed(text: str) -> str:
    """Return the text with the sign of its first signed number turned round, or ""."""
    match = re.search(r"(?<![\w.,])[+−-](?=\d)", text)
    if not match:
        return ""
    return text[: match.start()] + ("-" if match[0] == "+" else "+") + text[match.end() :]


def negated(text: str) -> str:
    """Return the text with a "not" behind its first auxiliary verb, or ""."""
    verb = re.search(r"\b(is|are|can|may|will|must|should|does|do|was|were|has)\b(?! not)", text)
    return f"{text[: verb.end()]} not{text[verb.end() :]}" if verb else ""


def spoilt(
    part: str, claim: str, question: str, own: tuple[Passage, ...], rng: random.Random
) -> Iterator[Labelled]:
    """Yield the claim and all that the rules make of it."""
    kinds = {
        "reference": claim,
        "number": renumbered(claim, rng),
        "sign": signed(claim),
        "turned": swapped(claim, TURNED, rng),
        "other word": swapped(claim, OTHER, rng),
        "negated": negated(claim),
        "opposite": swapped(claim, CLINICAL, rng),
    }
    for kind, text in kinds.items():
        if text:
            yield Labelled(part, kind, text, question, own)


def handbook(study: Path) -> Iterator[Labelled]:
    """Yield the labelled claims of the handbook."""
    paths = {row.doc_id: row.path for row in read_table(study / "documents.jsonl", Document)}
    by_chapter = defaultdict(list)
    for found in read_table(study / "passages.jsonl", Passage):
        by_chapter[paths[found.doc_id]].append(found)
    for question in handbook_questions(paths.values()):
        rng = random.Random(question["id"])
        rows = by_chapter[question["document"]]
        own = tuple(row for row in rows if _under(row, question["section"]))
        rest = [row for row in rows if row not in own and row.kind == "body"]
        part = f"handbook, {'held out' if int(question['document'][:2]) % 2 else 'chosen on'}"
        reference = question["reference"]
        clauses = reference.rstrip(".").split("; ")
        claims = [reference, *(f"{clause}." for clause in clauses if len(clauses) > 1)]
        for claim in claims:
            yield from spoilt(part, claim, question["question"], own, rng)
            said = claim
            for pattern, new in PARAPHRASES:
                said = re.sub(pattern, new, said)
            if said != claim:
                yield Labelled(part, "paraphrase", said, question["question"], own)
            for other in rng.sample(rest, min(3, len(rest))):
                yield Labelled(part, "other passage", claim, question["question"], (other,))


def bioasq(file: Path) -> Iterator[Labelled]:
    """Yield the labelled claims of BioASQ's ideal answers."""
    rows = [row for row in _rows(file) if row["source"] == "BioASQ-Y/N" and row.get("context")]
    for number, row in enumerate(rows):
        rng = random.Random(row["id"])
        own = (passage(row["context"]),)
        part = f"BioASQ, {'held out' if number % 2 else 'chosen on'}"
        other = (passage(rows[(number * 7 + 13) % len(rows)]["context"]),)
        for start, end in sentences(row["explanation"])[:3]:
            claim = " ".join(row["explanation"][start:end].split())
            if len(claim.split()) >= 6:
                yield from spoilt(part, claim, row["question"], own, rng)
                yield Labelled(part, "other passage", claim, row["question"], other)


def written() -> Iterator[Labelled]:
    """Yield the labelled claims of tests/opposites.jsonl."""
    rows = _rows(OPPOSITES)
    for number, row in enumerate(rows):
        before, after = rows[number - 3]["passage"], rows[(number + 3) % len(rows)]["passage"]
        own = (passage(f"{before} {row['passage']} {after}"),)
        yield Labelled("written", "reference", row["claim"], "What is known?", own)
        yield Labelled("written", "opposite", row["spoilt"], "What is known?", own)


def support(rows: Sequence[Labelled], embedder: SentenceEmbedder) -> list[str]:
    """Return the lines of a table: precision, recall, and the share of each kind judged rightly."""
    keyed = [
        Reply(
            f"{row.claim.rstrip('.')} [{', '.join(map(str, range(1, len(row.passages) + 1)))}].",
            row.question,
            row.passages,
        )
        for row in rows
    ]
    found = checked(keyed, embedder)
    held = [bool(claims) and all(claim.supported for claim in claims) for claims in found]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines = [
        f"| Claims | n | precision | recall | {' | '.join(kinds)} |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    for part in dict.fromkeys(row.part for row in rows):
        pairs = [(row, said) for row, said in zip(rows, held, strict=True) if row.part == part]
        right = sum(said and row.supported for row, said in pairs)
        cells = [
            f"{right / max(1, sum(said for _, said in pairs)):.2f}",
            f"{right / max(1, sum(row.supported for row, _ in pairs)):.2f}",
        ]
        for kind in kinds:
            judged = [said == row.supported for row, said in pairs if row.kind == kind]
            cells.append(f"{sum(judged) / len(judged):.2f} ({len(judged)})" if judged else "")
        lines.append(f"| {part} | {len(pairs)} | {' | '.join(cells)} |")
    return lines


def abstention(study: Path, file: Path | None, embedder: SentenceEmbedder) -> list[str]:
    """Return the lines of a table: how often the extractive arm abstains, and its ROUGE-L."""
    kinds = ("body", "abstract", "caption", "table")
    documents = study / "documents.jsonl"
    rows = [row for row in read_table(study / "passages.jsonl", Passage) if row.kind in kinds]
    asked = [
        (f"answered, {'held out' if int(q['document'][:2]) % 2 else 'chosen on'}", q["question"],
         q["reference"])
        for q in handbook_questions(row.path for row in read_table(documents, Document))
    ]  # fmt: skip
    asked += [
        (f"left open, {'held out' if n % 2 else 'chosen on'}", row["question"], "")
        for n, row in enumerate(_rows(OPEN))
    ]
    if file:
        far = [
            row["question"]
            for row in _rows(file)
            if row["source"].startswith("MMLU") and row["ecg"] == "none"
        ]
        asked += [("of other fields", text, "") for text in random.Random(3).sample(far, 40)]
    near = embedder.embed([text for _, text, _ in asked]) @ embedder.embed([r.text for r in rows]).T
    tasks = [
        Task(
            Question(question_id=str(number), set="s", kind="open", question=text),
            passages=tuple(rows[place] for place in np.argsort(-near[number])[:5]),
        )
        for number, (_, text, _) in enumerate(asked)
    ]
    made = [found.answer.text for found in ExtractiveAnswerer(embedder).answer("extractive", tasks)]
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    lines = ["| Questions | n | abstains | ROUGE-L of the answers |", "|---|---|---|---|"]
    for kind in dict.fromkeys(kind for kind, _, _ in asked):
        pairs = [(text, row[2]) for row, text in zip(asked, made, strict=True) if row[0] == kind]
        answered = [(text, wanted) for text, wanted in pairs if text != NO_ANSWER and wanted]
        scores = [rouge.score(wanted, text)["rougeL"].fmeasure for text, wanted in answered]
        mean = f"{np.mean(scores):.3f}" if scores else ""
        abstained = sum(text == NO_ANSWER for text, _ in pairs)
        lines.append(f"| {kind} | {len(pairs)} | {abstained} | {mean} |")
    return lines


def handbook_questions(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Return the bundled handbook's questions on those of its chapters that the study holds."""
    held = set(paths)
    text = resources.files("ecg_llm.demo").joinpath("questions.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["document"] in held]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _under(row: Passage, section: str) -> bool:
    return any(heading.endswith(section) for heading in row.section.split(" > "))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="a study that has read the bundled handbook")
    parser.add_argument("--questions", type=Path, help="all_mcq.jsonl")
    chosen = parser.parse_args()
    embedder = SentenceEmbedder()
    rows = [
        *handbook(chosen.study),
        *written(),
        *(bioasq(chosen.questions) if chosen.questions else []),
    ]
    print("\n".join(support(rows, embedder)), end="\n\n")
    print("\n".join(abstention(chosen.study, chosen.questions, embedder)))


if __name__ == "__main__":
    main()
