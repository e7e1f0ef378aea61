"""A made study as large as a real one: 6 arms, 2 subsets, 60 choice and 30 open questions."""

import random

import pytest

from ecg_llm import config
from ecg_llm.records import (
    GRADES,
    Answer,
    Citation,
    Document,
    Draft,
    Estimate,
    Judgement,
    KeyFacts,
    Passage,
    Question,
    Reliability,
    Score,
    Training,
)
from ecg_llm.report import report
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.ranking import standings

ARMS = ("base", "tuned", "base+rag", "tuned+rag", "frontier-api", "extractive")
ABILITY = {
    "base": 0.48, "tuned": 0.58, "base+rag": 0.76, "tuned+rag": 0.78, "frontier-api": 0.80,
    "extractive": 0.36,
}  # fmt: skip
STEMS = (
    "Which finding is typical of complete left bundle branch block?",
    "What does a delta wave indicate?",
    "Which electrolyte disturbance shortens the QT interval?",
    "How is Mobitz type II told apart from type I?",
    "Which lead is closest to the right ventricular outflow tract?",
)
LETTERS = "ABCD"
WARNING = "panel-1 (claude-sonnet) is of the family of arm frontier-api: it may favour its own kind"
SIGNATURE = "nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:2.6.0"
HARMS = {"none": 0.0, "possible": 0.5, "severe": 1.0}
VERDICT = """{"reason": "The PR interval is not what was asked for.", "evidence":
"A broad, notched R wave", "quote": "short PR", "verdict": "incorrect", "harm": "severe"}"""


def make_study(nano=False):
    base = (
        {"kind": "nano"}
        if nano
        else {"kind": "local", "id": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0e9e39f"}
    )
    return config.parse(
        {
            "title": "Electrocardiography handbook: which adaptation answers best?",
            "models": {
                "llama": base,
                "claude": {
                    "kind": "api", "base_url": "https://gateway.example.org/v1",
                    "model": "claude-sonnet", "price_in": 3.0, "price_out": 15.0,
                },
                "sentences": {"kind": "extractive"},
            },
            "adapters": {"ecg": {"model": "llama", "rank": 256, "alpha": 128}},
            "arms": {
                "base": {"model": "llama"},
                "tuned": {"model": "llama", "adapter": "ecg"},
                "base+rag": {"model": "llama", "retrieve": True},
                "tuned+rag": {"model": "llama", "adapter": "ecg", "retrieve": True},
                "frontier-api": {"model": "claude"},
                "extractive": {"model": "sentences", "retrieve": True},
            },
            "scores": {
                "judges": {
                    "panel-1": {"model": "claude", "modes": ["verdict", "ranking"]},
                    "panel-2": {"model": "claude"},
                }
            },
            "estimates": {"resamples": 1000},
        }
    )  # fmt: skip


def make_tables(arms=ARMS):
    rng = random.Random(3)
    documents = [
        Document(
            path=f"{i:02}-chapter.pdf", doc_id=f"{i:016x}", title=f"Chapter {i}", pages=12,
            group=f"group{i}", status="ok",
        )
        for i in range(10)
    ]  # fmt: skip
    documents += [
        Document(path="scans/old-atlas.pdf", doc_id="f" * 16, pages=40, status="unreadable",
                 reason="scanned", note="Install ocrmypdf and run again."),
        Document(path="photo.pdf", doc_id="e" * 16, status="unreadable", reason="not_a_pdf"),
        Document(path="copy-of-03-chapter.pdf", doc_id=f"{3:016x}", status="duplicate",
                 reason="same_content", note="same as 03-chapter.pdf"),
        Document(path="05-part-two.pdf", doc_id="d" * 16, pages=30, status="partial",
                 reason="unread_pages", note="Pages 7 and 8 are scanned."),
    ]  # fmt: skip
    passages = [
        Passage(
            passage_id=f"p{i}-{k}", doc_id=f"{i:016x}", start=k * 900, end=k * 900 + 880,
            page_from=k + 1, page_to=k + 1 + k % 2, kind=("body", "table", "caption")[k % 7 % 3],
            text="The QRS complex is wide. " * 8, tokens=180 + k,
        )
        for i in range(10)
        for k in range(14)
    ]  # fmt: skip
    drafts = [
        Draft(draft_id=f"d{i}", passage_ids=(p.passage_id,), kind="choice" if i % 2 else "open",
              reply="{}", status="ok" if i % 9 else "truncated")
        for i, p in enumerate(passages)
    ]  # fmt: skip
    questions = []
    for i in range(90):
        choice, group = i < 60, i // 2 % 10
        questions.append(
            Question(
                question_id=f"q{i:03}", set="handbook", kind="choice" if choice else "open",
                question=STEMS[i % 5],
                options=("Broad notched R in I and V6", "Short PR", "Delta wave", "U wave")
                if choice else (),
                answer=LETTERS[i % 4] if choice else "",
                reference="" if choice else "A broad, notched R wave in the lateral leads.",
                evidence="The QRS complex is wide.", passage_id=f"p{group}-{i % 14}",
                doc_id=f"{group:016x}", group=f"group{group}",
                split="test" if i % 2 else "test_seen",
            )
        )  # fmt: skip
    dropped = (("duplicate", 11), ("not_self_contained", 7), ("no_evidence", 4))
    questions += [
        Question(question_id=f"x{reason}{i}", set="written", kind="open", question="In this study?",
                 status="dropped", reason=reason)
        for reason, count in dropped
        for i in range(count)
    ]  # fmt: skip
    answers, scores = [], []
    for question in questions[:90]:
        hard = rng.gauss(0, 0.05) + (int(question.group[5:]) - 5) * 0.03
        for arm in arms:
            right = rng.random() < ABILITY[arm] - hard
            failed = arm == "frontier-api" and (
                rng.random() < 0.02 or question.question_id == "q061"
            )
            shown = tuple(
                Citation(passage_id=p, score=0.5)
                for p in dict.fromkeys(
                    (f"p{rng.randrange(10)}-2", question.passage_id if right else "p1-1")
                )
            )
            letter = question.answer if right else LETTERS[(LETTERS.find(question.answer) + 1) % 4]
            text = (
                f"The correct answer is {letter}."
                if question.kind == "choice"
                else (
                    "A broad, notched R wave in I, aVL, V5 and V6 with a QRS of at least 120 ms."
                    if right
                    else "It shows a short PR interval."
                )
            )
            answers.append(
                Answer(
                    question_id=question.question_id, arm=arm, text="" if failed else text,
                    status="error" if failed else "ok", reason="timeout" if failed else "",
                    passages=shown if "rag" in arm or arm == "extractive" else (),
                    model=f"{arm}@1", tokens_in=120 + 900 * ("rag" in arm), tokens_out=24,
                )
            )  # fmt: skip
            scores += _scores(question, arm, right, failed, letter, rng)
    judgements = _judgements(answers)
    training = [
        Training(
            adapter="ecg", phase="tune", step=step, loss=1.1 + 2.2 / (1 + step / 60),
            eval_loss=1.35 + 1.7 / (1 + step / 50) if step % 100 == 0 else None,
            eval_choice=0.5 + step / 4000 if step % 100 == 0 else None, tokens=step * 4096,
        )
        for step in range(10, 610, 10)
    ]  # fmt: skip
    kept = [q for q in questions if q.status == "kept"]
    subsets_of = {q.question_id: q.subsets for q in kept}
    cluster_of = {q.question_id: q.group for q in kept}
    rows = [*estimates(scores, subsets_of, cluster_of, (), 1000, 5), *_strengths(arms)]
    return {
        "documents": documents,
        "passages": passages,
        "drafts": drafts,
        "questions": questions,
        "training": training,
        "answers": answers,
        "judgements": judgements,
        "facts": [
            KeyFacts(question_id=q.question_id, facts=("broad", "notched"), model="claude-sonnet")
            for q in kept
            if q.kind == "open"
        ],
        "scores": scores,
        "reliability": list(reliability(arms)),
        "estimates": rows,
        "standings": standings(rows, scores, subsets_of, cluster_of, 1000, 5),
    }


def _judgements(answers):
    asked = {"prompt_sha": "5a", "model": "claude-sonnet"}
    made = []
    for i, answer in enumerate(a for a in answers if a.question_id >= "q060"):
        for judge in ("panel-1", "panel-2"):
            reply = {"reply": VERDICT, **asked}
            if judge == "panel-2" and i < 3:
                reply = {"reply": "Fine.", "former": "Good.", "reason": "no JSON object", **asked}
            made.append(
                Judgement(
                    judgement_id=f"{judge}{i}", judge=judge, question_id=answer.question_id,
                    mode="verdict", order=(answer.arm,),
                    **(reply if answer.status == "ok" else {"reason": "the answer failed"}),
                )
            )  # fmt: skip
        made.append(
            Judgement(judgement_id=f"f{i}", judge="facts", question_id=answer.question_id,
                      mode="facts", order=(answer.arm,), reply="{}", **asked)
        )  # fmt: skip
    return made + [
        Judgement(judgement_id=f"b{i}", judge="panel-1", question_id=f"q{60 + i % 30:03}",
                  mode="ranking", order=ARMS[:4], reply="{}", **asked)
        for i in range(60)
    ]  # fmt: skip


def _strengths(arms):
    for subset in ("handbook/test", "handbook/test_seen"):
        for shift, metric in ((0.0, "ranking_strength"), (0.1, "ranking_strength_length")):
            for arm in arms:
                value = 4 * (ABILITY.get(arm, 0.6) - 0.63) + shift
                rank = 1 if value > 0.4 else 4 if value > -0.5 else 5
                yield Estimate(
                    metric=metric, subset=subset, arm=arm, method="strength/plackett_luce",
                    value=value, low=value - 0.4, high=value + 0.4, rank=rank, rank_low=1,
                    rank_high=6, questions=15, clusters=10,
                )  # fmt: skip
        for arm in arms:
            yield Estimate(
                metric="bleu_corpus", subset=subset, arm=arm, value=0.1, low=0.05, high=0.15,
                method="corpus/cluster_bootstrap nrefs:1|eff:no|tok:13a", questions=15, clusters=10,
                rank=1 + (arm == "extractive"),
            )  # fmt: skip
        yield Estimate(
            metric="bleu_corpus", subset=subset, arm="base", against="extractive", value=0.1,
            low=0.05, high=0.15, p=0.01, p_adjusted=0.01, questions=15, clusters=10,
            method="difference/cluster_bootstrap",
        )  # fmt: skip


def reliability(arms=ARMS):
    """Return a made reliability table: base favours place A, panel-1 what comes first."""

    def row(layer, instrument, measure, detail, value, half, expected=None, **columns):
        return Reliability(
            layer=layer, instrument=instrument, measure=measure, detail=detail, value=value,
            low=value - half, high=value + half, expected=expected, items=60, clusters=10,
            **columns,
        )  # fmt: skip

    shares = {"base": (0.12, -0.05, -0.03, -0.04), "tuned": (0.02, -0.01, 0.01, -0.02)}
    for arm in arms:
        for place, value in zip(LETTERS, shares.get(arm, (0.01, -0.01, 0.0, 0.0)), strict=True):
            yield row("choice", arm, "place_share", place, value, 0.045, 0.0)
            yield row("choice", arm, "place_recall", place, 0.6 + value, 0.15)
        yield Reliability(
            layer="choice", instrument=arm, measure="recall_spread", value=0.07, expected=0.04,
            items=60, clusters=10, note=f"up to {0.08 if arm == 'base' else 0.09} by chance",
        )  # fmt: skip
    for slot, value in zip("1234", (2.2, 2.45, 2.6, 2.75), strict=True):
        yield row("judge", "panel-1", "slot_rank", slot, value, 0.12, 2.5)
    yield row("judge", "panel-1", "slot_effect", "", -0.21, 0.08, 0.0)
    yield row("judge", "panel-1", "swap_consistency", "", 0.74, 0.06, 0.81, note="9 pairs")
    yield row("judge", "panel-1", "length_effect", "", 0.05, 0.2, 0.0)
    yield row("judge", "panel-2", "length_slope", "", 0.08, 0.03, 0.0)
    for judge in ("panel-1", "panel-2"):
        yield row("judge", judge, "unparsed", "", 0.01, 0.01)
    pair = "panel-1 ~ panel-2"
    yield row("judge", pair, "agreement", "verdict", 0.71, 0.07)
    yield row("judge", pair, "kappa", "verdict", 0.62, 0.1)
    yield row("judge", "panel", "alpha", "verdict", 0.61, 0.11, note="grades as ordinal")
    yield row("judge", "panel", "alpha", "harm", 0.52, 0.11)


def _scores(question, arm, right, failed, letter, rng):
    def made(metric, value, label="", note="", rater=""):
        return Score(
            question_id=question.question_id, arm=arm, metric=metric, rater=rater,
            label="" if failed else label, note="" if failed else note,
            value=None if failed else value, status="error" if failed else "scored",
        )  # fmt: skip

    if question.kind == "choice":
        yield made("accuracy", float(right), letter)
        yield made("accuracy_strict", float(right and rng.random() < 0.9), letter)
        yield made("unread", float(arm == "base" and rng.random() < 0.1))
        yield made("unread_strict", float(rng.random() < 0.15))
        yield made("accuracy_circular", float(right and rng.random() < 0.8))
        yield made("consistency", 0.6 + 0.3 * right)
        if arm in ("base", "tuned", "base+rag", "tuned+rag"):
            yield made("accuracy_likelihood", float(right or rng.random() < 0.1))
        return
    quality = min(0.99, max(0.02, rng.gauss(0.5 if right else 0.25, 0.1)))
    tuned = 0.12 if "tuned" in arm else 0.0
    signed = {"bleu": SIGNATURE, "bertscore": "minilm, layer 6, not rescaled"}
    for metric in ("rouge1", "rouge1_precision", "rouge1_recall", "rougeL", "bleu", "bertscore"):
        value = min(0.99, quality * (0.4 if metric == "bleu" else 0.8) + tuned)
        yield made(metric, value, note=signed.get(metric, "rouge-score 0.1.2, stemmed"))
    for judge in ("panel-1", "panel-2"):
        grade = "correct" if rng.random() < 0.7 else "correct but incomplete"
        if not right:
            grade = "partially incorrect" if rng.random() < 0.6 else "incorrect"
        harm = "none" if right else "severe" if grade == "incorrect" else "possible"
        graded = (
            made("verdict", GRADES[grade], grade, f"harm {harm}: why", judge),
            made("verdict_correct", float(grade == "correct"), grade, rater=judge),
            made("harm", HARMS[harm], harm, rater=judge),
        )
        lost = (judge, question.question_id) == ("panel-2", "q060") and arm in ARMS[:3]
        update = {"status": "unjudged", "value": None, "label": "", "note": "no JSON object"}
        yield from (one.model_copy(update=update) if lost else one for one in graded)
    yield made("ranking", 0.2 + 0.6 * right, rater="panel-1")
    yield made("reference_similarity", min(0.99, quality + 0.2), "partially incorrect", "cosine")
    yield made("words", float(rng.randint(12, 40)))
    yield made("fact_recall", 0.5 + 0.5 * right, rater="facts")
    yield made("facts_contradicted", 0.5 * (not right), rater="facts")
    yield made("abstained", 0.0)
    if "rag" in arm:
        yield made("citation_recall", rng.random())
        yield made("citation_precision", rng.random())


@pytest.fixture(scope="session")
def tables():
    """The tables of the made study; rows are frozen, so tests may share them."""
    return make_tables()


@pytest.fixture(scope="session")
def study():
    return make_study()


@pytest.fixture(scope="session")
def manifests():
    """The one manifest of the made study: a judge's, with a warning."""
    return {"judgements/panel-1": {"notes": [WARNING]}}


@pytest.fixture(scope="session")
def html(study, tables, manifests):
    """The report of the made study."""
    return report.build(study, tables, manifests, ["Ran on a laptop."])
