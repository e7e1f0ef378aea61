"""Choice questions a second on this machine: ours beside a one-by-one loop and lm-eval.

    python benchmarks/choice.py
    python benchmarks/choice.py --sizes nano --replies short --rounds 5

The bundled handbook's 54 choice questions in four permutations, 216 items, by a nano model that was
trained on half of them to reply with the sentence asked for alone ("short", the form of the
published fine-tuned models) or with a reason after it ("long", as base models do; cut at 50
tokens). All ways see the same prompts and weights in float32, decode greedily and write at most 50
tokens:

ours: `answer.arms.answers`, the letter written and the likelihoods of all options.
(a) The published loop: one question at a time, tokenised and generated; letters alone.
(b) lm-evaluation-harness: likelihoods by `loglikelihood`, letters by `generate_until`; its batch
    sizes 32 and auto.
(c) The likelihoods of all options one by one. (d) The letters in batches by plain transformers.

The ways take turns in every round. Shown are medians and ranges of questions a second by the clock,
and ratios of the same round by the clock and by processor time, which other work on the machine
disturbs less. A ratio "at equal work" compares with the part of ours that gives the same. "Its
prompts" are read once, in batches, and nothing else: no way that reads every prompt is faster.
Letters of (a) and likeliest options of (b) are compared with ours item by item.

Prints the tables, writes results/choice.{json,md}; exit code 1 if a target is missed.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
import training
from training import Figure, at_least, at_most

from ecg_llm import config, local
from ecg_llm.answer import arms
from ecg_llm.contracts import Decoding, Message, Task
from ecg_llm.prompt import choice_reply, question_messages, rotated
from ecg_llm.records import LETTERS, Answer, Question
from ecg_llm.score.choice import parse
from ecg_llm.train import nano, template, tune

SEED = 20261126
SIZES = {
    "tiny": config.NanoModelConfig(kind="nano", hidden=64, layers=2, heads=2, vocabulary=2048),
    "demo": config.NanoModelConfig(kind="nano", hidden=192, layers=4, vocabulary=2048),
    "nano": config.NanoModelConfig(kind="nano"),
}
EPOCHS = {"tiny": 160, "demo": 48, "nano": 40}
PERMUTATIONS, TOKENS, BATCH = 4, 50, 32
FASTER = 20.0
"""Times as fast as the published loop, wanted of ours."""
ALIKE = 1e-3
"""Largest difference of a log-likelihood to lm-eval's."""
PUBLISHED = "(a) one by one, as published"
LM_EVAL = "(b) lm-eval, both, batch 32"
PARTS = {
    PUBLISHED: "letters",
    "(b) lm-eval, likelihoods, batch 32": "likelihoods",
    "(b) lm-eval, likelihoods, batch auto": "likelihoods",
    LM_EVAL: "ours",
    "(c) likelihoods one by one": "likelihoods",
    "(d) letters in batches": "letters",
}
"""Way -> the part of ours that does equal work."""
OWN = {"likelihoods": "its likelihoods", "letters": "its letters", "prompts": "its prompts"}
"""Part of ours -> its name in the table."""


class Item(NamedTuple):
    """A question in one permutation."""

    question: Question
    permutation: int
    messages: list[Message]

    @property
    def options(self) -> tuple[str, ...]:
        """The options as they are shown."""
        return rotated(self.question.options, self.permutation)


class Run(NamedTuple):
    """How long a way took for all items, and what it found."""

    seconds: float
    processor: float
    found: Any


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "nano"])
    parser.add_argument(
        "--replies", nargs="+", choices=["short", "long"], default=["short", "long"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--models", type=Path, help="folder to keep the models in and take them from"
    )
    given = parser.parse_args()
    machine = training.machine()
    asked = items(questions())
    cells: dict[str, dict[str, Any]] = {}
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as place:
        for size, replies in itertools.product(given.sizes, given.replies):
            folder = (given.models or Path(place)) / f"{size}-{replies}"
            if not (folder / "config.json").is_file():
                make(folder, size, replies)
            name = f"{size}, {replies} replies"
            cells[name] = measure(folder, asked, given.rounds)
            figures += judged(name, cells[name])
            text = report(machine, cells, figures, given.rounds, len(asked))
            kept = {"machine": machine, "cells": cells, "figures": [x._asdict() for x in figures]}
            training.keep("choice", kept, text)
    print(text)
    sys.exit(not all(figure.met for figure in figures))


def questions() -> list[Question]:
    """Return the bundled handbook's choice questions."""
    text = resources.files("ecg_llm.demo").joinpath("questions.jsonl").read_text("utf-8")
    return [
        Question(
            question_id=row["id"],
            set="handbook",
            kind="choice",
            question=row["question"],
            options=tuple(row["options"]),
            answer=row["answer"],
            reference=row["reference"],
        )
        for row in map(json.loads, text.splitlines())
        if row["kind"] == "choice"
    ]


def items(rows: Sequence[Question]) -> list[Item]:
    """Return every question in every permutation, in the order of the answers' keys."""
    return [
        Item(row, place, question_messages(Task(row, rotated(row.options, place))))
        for row in sorted(rows, key=lambda row: row.question_id)
        for place in range(PERMUTATIONS)
    ]


def make(folder: Path, size: str, replies: str) -> None:
    """Train a nano model on every other question, in all permutations, to reply in this form."""
    rows, settings = questions(), SIZES[size]
    texts = [text for row in rows for text in (row.question, row.reference, *row.options)]
    tokenizer = nano.train_tokenizer(texts, settings)
    examples = []
    for item in items(rows[::2]):
        letter = LETTERS[item.options.index(item.question.options[place_of_key(item.question)])]
        reply = choice_reply(letter)
        if replies == "long":
            reply = f"{reply} {item.question.reference}"
        turned = item.question.model_copy(update={"options": item.options, "answer": letter})
        examples.append(template.example(turned, reply=reply))
    data = tune.tokenized(tokenizer, examples, settings.context).items
    model = nano.random_model(tokenizer, settings, SEED)
    adapter = training.settings(
        method="full", learning_rate=1e-3, optimizer="adamw_torch_fused", precision="float32"
    )
    with local.quiet():
        training.ours(model, tokenizer.pad_token_id, adapter, 4)(data * EPOCHS[size])
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def place_of_key(question: Question) -> int:
    """Return the place of the right option in the question's own order."""
    return LETTERS.index(question.answer)


def measure(folder: Path, asked: Sequence[Item], rounds: int) -> dict[str, Any]:
    """Return the times of all ways on one model, and how far their results agree."""
    ways = {**own(folder), **others(folder)}
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for way in ways.values():
        way(asked[:8])
    for number in range(rounds):
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            found = way(asked)
            run = Run(time.perf_counter() - clock, time.process_time() - processor, found)
            runs[name].append(run)
            print(
                f"round {number + 1}: {folder.name}, {name}: {run.seconds:.2f} s", file=sys.stderr
            )
    times = {name: [[run.seconds, run.processor] for run in done] for name, done in runs.items()}
    return {"times": times, **agreement(asked, {n: done[-1].found for n, done in runs.items()})}


Way = Callable[[Sequence[Item]], Any]


def own(folder: Path) -> dict[str, Way]:
    """Return our protocol, and its two readings alone."""
    model = local.LocalModel(str(folder), batch=BATCH)
    settings = config.Answers(permutations=PERMUTATIONS, max_tokens_choice=TOKENS)

    def both(some: Sequence[Item]) -> list[Answer]:
        rows = list({item.question.question_id: item.question for item in some}.values())
        answerer = arms.ModelAnswerer(model, settings, SEED)
        made = arms.answers("nano", rows, answerer, None, {}, settings, count=None)
        return sorted((answer for answer, _ in made), key=lambda answer: answer.key)

    def likelihoods(some: Sequence[Item]) -> list[list[float]]:
        ordered = by_length(some)
        read = model.likelihoods(
            [some[i].messages for i in ordered], [some[i].question.options for i in ordered]
        )
        return in_order(ordered, [[one.logprob for one in row] for row in read])

    def letters(some: Sequence[Item]) -> list[str]:
        ordered = by_length(some)
        made = model.generate([some[i].messages for i in ordered], Decoding(TOKENS))
        return in_order(ordered, [reply.text for reply in made])

    def prompts(some: Sequence[Item]) -> None:
        messages = [some[i].messages for i in by_length(some)]
        model.likelihoods(messages, [("A",)] * len(some))

    return {"ours": both, "likelihoods": likelihoods, "letters": letters, "prompts": prompts}


def others(folder: Path) -> dict[str, Way]:
    """Return the ways that ours is compared with."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = local.load_tokenizer(str(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = local.load_model(str(folder), "", torch.float32)
    ends = list(local.end_ids(model, tokenizer))
    greedy = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": ends}
    greedy["pad_token_id"] = tokenizer.pad_token_id

    def published(some: Sequence[Item]) -> list[str]:
        found = []
        for item in some:
            ids = torch.tensor([local.chat_ids(tokenizer, item.messages)], device=device)
            with torch.no_grad():
                made = model.generate(ids, attention_mask=torch.ones_like(ids), **greedy)
            found.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
        return found

    def one_by_one(some: Sequence[Item]) -> list[list[float]]:
        found = []
        for item in some:
            row = []
            for option in item.question.options:
                start = local.chat_ids(tokenizer, item.messages)
                reply = local.reply_ids(tokenizer, option)
                ids = torch.tensor([start + reply], device=device)
                with torch.no_grad():
                    logits = model(ids).logits[0, len(start) - 1 : -1]
                said = torch.tensor(reply, device=device).unsqueeze(1)
                row.append(float(logits.log_softmax(-1).gather(1, said).sum()))
            found.append(row)
        return found

    def in_batches(some: Sequence[Item]) -> list[str]:
        ordered, found = by_length(some), []
        for start in range(0, len(ordered), BATCH):
            ids = [local.chat_ids(tokenizer, some[i].messages) for i in ordered[start:][:BATCH]]
            batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
            with torch.no_grad():
                made = model.generate(**batch.to(device), **greedy)
            new = made[:, batch["input_ids"].shape[1] :]
            found += tokenizer.batch_decode(new, skip_special_tokens=True)
        return in_order(ordered, found)

    def harness(batch: int | str, both: bool) -> Way:
        lm: Any = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch, max_batch_size=64,
            max_length=model.config.max_position_embeddings,
        )  # fmt: skip

        def evaluated(some: Sequence[Item]) -> tuple[list[list[float]], list[str]]:
            texts = [lm.apply_chat_template(item.messages) for item in some]
            requests = [
                Instance("loglikelihood", {}, (text, option), number)
                for text, item in zip(texts, some, strict=True)
                for number, option in enumerate(item.question.options)
            ]
            said = iter(lm.loglikelihood(requests, disable_tqdm=True))
            read = [[next(said)[0] for _ in item.question.options] for item in some]
            if not both:
                return read, []
            until = {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
            asked = [Instance("generate_until", {}, (text, until), 0) for text in texts]
            return read, lm.generate_until(asked, disable_tqdm=True)

        return evaluated

    made = [
        published, harness(BATCH, False), harness("auto", False), harness(BATCH, True),
        one_by_one, in_batches,
    ]  # fmt: skip
    return dict(zip(PARTS, made, strict=True))


def by_length(some: Sequence[Item]) -> list[int]:
    """Return the places of the items by the length of their prompts."""
    return sorted(range(len(some)), key=lambda i: len(some[i].messages[0]["content"]))


def in_order(places: Sequence[int], found: Sequence[Any]) -> list[Any]:
    """Return what was found for these places in the order of the items."""
    return [one for _, one in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])]


def agreement(asked: Sequence[Item], found: dict[str, Any]) -> dict[str, Any]:
    """Return on how many items the ways differ, and what the model is like."""
    published, lm_eval = found[PUBLISHED], found[LM_EVAL]
    ours: list[Answer] = found["ours"]
    letters = [parse(one.text, item.options).letter for one, item in zip(ours, asked, strict=True)]
    theirs = [parse(t, item.options).letter for t, item in zip(published, asked, strict=True)]
    written = [parse(t, item.options).letter for t, item in zip(lm_eval[1], asked, strict=True)]
    values = [one.option_logprobs for one in ours]
    right = [
        item.options.index(item.question.options[place_of_key(item.question)]) for item in asked
    ]
    return {
        "items": len(asked),
        "tokens_in": statistics.mean(one.tokens_in for one in ours),
        "tokens_out": statistics.mean(one.tokens_out for one in ours),
        "letters": {str(one): letters.count(one) for one in dict.fromkeys(letters)},
        "accuracy": statistics.mean(
            letter == LETTERS[place] for letter, place in zip(letters, right, strict=True)
        ),
        "accuracy_likelihood": statistics.mean(
            likeliest(row) == place_of_key(item.question)
            for row, item in zip(values, asked, strict=True)
        ),
        "other_letters_than_published": differing(letters, theirs),
        "other_texts_than_published": differing(
            [one.text.strip() for one in ours], [text.strip() for text in published]
        ),
        "other_letters_than_lm_eval": differing(letters, written),
        "other_options_than_lm_eval": differing(map(likeliest, values), map(likeliest, lm_eval[0])),
        "largest_difference_to_lm_eval": max(
            abs(a - b)
            for row, other in zip(values, lm_eval[0], strict=True)
            for a, b in zip(row, other, strict=True)
        ),
    }


def likeliest(values: Sequence[float]) -> int:
    """Return the place of the largest value."""
    return max(range(len(values)), key=values.__getitem__)


def differing(ours: Any, theirs: Any) -> int:
    """Return how many pairs differ."""
    return sum(a != b for a, b in zip(ours, theirs, strict=True))


def times_as_fast(cell: dict[str, Any], one: str, other: str, clock: int = 0) -> float:
    """Return how many times as fast one way is as another in the same round: the median.

    `clock` 0 is the clock on the wall, 1 processor time.
    """
    pairs = zip(cell["times"][one], cell["times"][other], strict=True)
    return float(statistics.median(b[clock] / a[clock] for a, b in pairs))


def judged(name: str, cell: dict[str, Any]) -> list[Figure]:
    """Return what is wanted of one model beside what was measured."""
    return [
        at_least(f"{name}: times (a)", times_as_fast(cell, "ours", PUBLISHED), FASTER),
        *(
            at_least(f"{name}: times {way}", times_as_fast(cell, PARTS[way], way), 1.0)
            for way in PARTS
            if way.startswith("(b)")
        ),
        at_most(f"{name}: other letters than (a)", cell["other_letters_than_published"], 0),
        at_most(f"{name}: other options than (b)", cell["other_options_than_lm_eval"], 0),
        at_most(f"{name}: log-likelihoods to (b)", cell["largest_difference_to_lm_eval"], ALIKE),
    ]


def report(
    machine: dict[str, Any],
    cells: dict[str, dict[str, Any]],
    figures: Sequence[Figure],
    rounds: int,
    count: int,
) -> str:
    """Return the tables in Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = [
        "# Choice questions",
        f"{count} items (54 questions of the handbook, {PERMUTATIONS} permutations), at most "
        f"{TOKENS} tokens written, batches of {BATCH}; {rounds} rounds, medians. {facts}.",
    ]
    for name, cell in cells.items():
        rows = [
            (name, "questions/s (range)", "ours is times as fast: clock", "processor",
             "at equal work: clock", "processor")
        ]  # fmt: skip
        for way, runs in cell["times"].items():
            rates = [cell["items"] / seconds for seconds, _ in runs]
            row = [
                OWN.get(way, way),
                f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})",
            ]
            row += [f"{times_as_fast(cell, 'ours', way, clock):.2f}" for clock in (0, 1)]
            part = PARTS.get(way)
            row += [f"{times_as_fast(cell, part, way, c):.2f}" if part else "" for c in (0, 1)]
            rows.append(tuple(row))
        said = ", ".join(f"{letter} {n}" for letter, n in cell["letters"].items())
        parts += [
            training.table(rows),
            f"{cell['tokens_in']:.0f} tokens a prompt, {cell['tokens_out']:.1f} a reply; letters "
            f"{said}; accuracy {cell['accuracy']:.3f}, by likelihood "
            f"{cell['accuracy_likelihood']:.3f}. Of {cell['items']} items ours differs from (a) in "
            f"{cell['other_letters_than_published']} letters and "
            f"{cell['other_texts_than_published']} texts, from (b) in "
            f"{cell['other_letters_than_lm_eval']} letters and "
            f"{cell['other_options_than_lm_eval']} likeliest options; log-likelihoods by at most "
            f"{cell['largest_difference_to_lm_eval']:.1e}.",
        ]
    parts += [
        training.figures_table(figures),
        "A core of a CPU is busy with one prompt already: batches save the overhead of a step, not "
        "arithmetic. No way that reads every prompt whole can be more times as fast as (a) than "
        "the prompts alone are ("
        + ", ".join(
            f"{name}: {times_as_fast(cell, 'prompts', PUBLISHED):.1f}"
            for name, cell in cells.items()
        )
        + "). A GPU, which one prompt leaves idle, was not measured. A nano model makes "
        "tokenising and Python a larger share of all ways than a large one does, and its "
        "replies differ less from item to item than those of a model that knows medicine.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
