"""Whether what is deployed behaves as what was trained: the same prompts, read by both."""

import math
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_llm import local, store
from ecg_llm.contracts import ChatModel, Decoding, Message, Reply, StepError
from ecg_llm.prompt import choice_reply, prompt_sha
from ecg_llm.records import LETTERS, Question, digest
from ecg_llm.train import template
from ecg_llm.train.template import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "parity.json"
COUNT = 50
MAX_TOKENS = 32
LETTER = re.compile(r"(?:The correct answer is )?([A-Z])\b.*", re.DOTALL)
"""How a trained model answers a choice question, in every form of mix.choice_reply."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Probe(_Part):
    """One prompt that both models are given."""

    messages: tuple[dict[str, str], ...]
    """Role and content of each turn."""
    reference: str
    """The reply to learn: how likely it is gets compared."""
    options: tuple[str, ...] = ()
    """The replies that choose each option, where the prompt is a choice question."""

    @classmethod
    def of(cls, item: Example, options: Sequence[str] = ()) -> "Probe":
        """Return the probe that this example makes."""
        return cls(
            messages=tuple(
                {"role": message["role"], "content": message["content"]}
                for message in item["prompt"]
            ),
            reference=item["completion"][0]["content"],
            options=tuple(options),
        )

    @property
    def chat(self) -> list[Message]:
        """The messages, as models take them."""
        return [Message(role=turn["role"], content=turn["content"]) for turn in self.messages]


class Reading(_Part):
    """What a model made of one probe."""

    prompt: str
    """Digest of the prompt's tokens."""
    rendered: str
    """Digest of the text that the chat template makes of the prompt, and of prompt and reply."""
    reply: tuple[int, ...]
    """Tokens of the trained model's greedy reply, with the end token."""
    text: str
    """The greedy reply in words; empty where the reply was only read."""
    likeliest: tuple[int, ...]
    """The token that this model would take in place of each of `reply`, after those before it."""
    logprobs: tuple[float, ...]
    """Log-probability of each token of `reply`, in nats."""
    reference: float | None
    """Log-likelihood of the reference per token; None where it does not fit into the context."""
    options: tuple[float, ...]
    """Log-likelihood of each option's reply, summed over its tokens."""

    @property
    def choice(self) -> int | None:
        """Place of the likeliest option."""
        if not self.options:
            return None
        return max(range(len(self.options)), key=self.options.__getitem__)


class Special(_Part):
    """The special tokens that decide how prompts begin and replies end."""

    bos: str
    eos: str
    pad: str
    ends: tuple[str, ...]
    """All at which generation stops."""


class Measured(_Part):
    """A model on the probes; that of the trained model lies beside the adapter."""

    model: str
    dtype: str
    """Of the weights, like float32."""
    special: Special
    max_tokens: int
    probes: tuple[Probe, ...]
    readings: tuple[Reading, ...]


class Limits(NamedTuple):
    """From where on two models behave differently."""

    agreement: float
    """Least share of the trained model's own tokens that the other would take as well."""
    difference: float
    """Most mean difference of the log-likelihood per token, in nats."""
    largest: float
    """Most difference of a single probe."""
    choices: float
    """Largest share of choice questions with another likeliest option."""


EXACT = Limits(agreement=0.999, difference=1e-4, largest=1e-3, choices=0.0)
"""Both computed in float32: only the order of sums differs, which moves the seventh digit."""
ROUNDED = Limits(agreement=0.97, difference=0.02, largest=0.2, choices=0.04)
"""One of them rounded to 16 bits: a weight keeps 8 binary digits, so that logits of size 20 move by
some hundredths and near ties tip; two choices of 50 may tip so. Merges of nano models written as
bfloat16 had an agreement of at least .993 and mean differences of at most .003. A merge onto the
wrong base, a lost adapter, a wrong template or wrong scaling move far more (see the tests)."""


class Check(_Part):
    """One comparison with its limit."""

    name: str
    value: float | str
    limit: float | str
    ok: bool
    failure: str = ""
    """A sentence that names what broke."""


class Verdict(_Part):
    """Whether another model behaves as the trained one."""

    trained: str
    other: str
    probes: int
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """The sentences of the checks that failed."""
        return tuple(check.failure for check in self.checks if not check.ok)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.failures


class Record(_Part):
    """The file: beside an adapter what the trained model did, in an export the verdict.

    The prompts may quote the literature, so they do not leave with an export.
    """

    trained: Measured | None = None
    verdict: Verdict | None = None


def probes(
    train: Sequence[Example],
    val: Sequence[Example],
    choices: Sequence[Question],
    seed: int,
    count: int = COUNT,
) -> list[Probe]:
    """Return at most `count` probes, half of them choice questions where there are so many.

    The others are examples. Those of val come first, then a seeded sample of the rest. `choices`
    may be of val and train; they come with the reply of every option.
    """
    chance = random.Random(seed)
    answered = [row for row in choices if row.kind == "choice" and row.answer]
    asked = [
        Probe.of(template.example(row), [*map(choice_reply, LETTERS[: len(row.options)])])
        for row in sorted(chance.sample(answered, len(answered)), key=lambda q: q.split != "val")
    ]
    known = {prompt_sha(probe.chat) for probe in asked}
    others = []
    for item in (*chance.sample(val, len(val)), *chance.sample(train, len(train))):
        if (key := prompt_sha(item["prompt"])) not in known:
            known.add(key)
            others.append(Probe.of(item))
    of_choices = min(len(asked), max(count // 2, count - len(others)))
    return asked[:of_choices] + others[: count - of_choices]


def measure(
    model: local.LocalModel, probes: Sequence[Probe], *, max_tokens: int = MAX_TOKENS
) -> Measured:
    """Return what this model does with the probes: its greedy replies and its likelihoods.

    Raises:
        StepError: no probe, or probabilities that are no numbers.
        UsageError: the model cannot be loaded.
    """
    held = model.load()
    prompts = _prompts(held.tokenizer, probes)
    replies = model.greedy(prompts, max_tokens)
    texts = [_text(held, reply) for reply in replies]
    return _measured(model, probes, prompts, replies, texts, max_tokens)


def measure_again(model: local.LocalModel, trained: Measured) -> Measured:
    """Return how this model reads the probes and the replies of the trained one.

    Raises:
        StepError: probabilities that are no numbers.
        UsageError: the model cannot be loaded.
    """
    held = model.load()
    prompts = _prompts(held.tokenizer, trained.probes)
    known = held.model.get_input_embeddings().weight.shape[0]
    # A token that this model does not have is none that it could take.
    replies = [
        list(reading.reply) if max(reading.reply, default=0) < known else []
        for reading in trained.readings
    ]
    texts = [""] * len(replies)
    return _measured(model, trained.probes, prompts, replies, texts, trained.max_tokens)


def compare(trained: Measured, other: Measured, limits: Limits | None = None) -> Verdict:
    """Return whether the other model behaves as the trained one; `other` is of measure_again.

    Without limits those of float32 hold where both are, else those of 16 bits.
    """
    both = {trained.dtype, other.dtype}
    limits = limits or (EXACT if both == {"float32"} else ROUNDED)
    pairs = list(zip(trained.readings, other.readings, strict=True))
    checks = [
        _special(trained.special, other.special),
        _same(
            "chat template",
            sum(a.rendered == b.rendered for a, b in pairs),
            len(pairs),
            "The chat template writes another text for {n} of {total} prompts",
        ),
        _same(
            "prompt tokens",
            sum(a.prompt == b.prompt for a, b in pairs),
            len(pairs),
            "The tokenizer makes other tokens of {n} of {total} prompts",
        ),
        _agreement(pairs, limits),
        *_differences(pairs, limits),
        *_choices(
            [(a.choice, b.choice) for a, b in pairs if a.options and b.options], limits.choices
        ),
    ]
    return Verdict(
        trained=trained.model, other=other.model, probes=len(pairs), checks=tuple(checks)
    )


def compare_server(trained: Measured, chat: ChatModel) -> Verdict:
    """Return whether a server's greedy replies are those of the trained model.

    A server shows no probabilities, so the words are compared. The limits are what ROUNDED's token
    agreement a lets expect of replies of n tokens if tokens differed independently: a share a^n of
    equal replies, and (1 - a^n) / (n (1 - a)) of the words before the first other one.

    Raises:
        ServerError: the server cannot be reached.
    """
    decoding = Decoding(max_tokens=trained.max_tokens)
    replies = chat.generate([probe.chat for probe in trained.probes], decoding)
    came = [reply.status in ("ok", "truncated") for reply in replies]
    lengths = [max(1, len(reading.reply)) for reading in trained.readings]
    said = [
        (reading.text.split(), reply.text.split())
        for reading, reply in zip(trained.readings, replies, strict=True)
    ]
    share = ROUNDED.agreement
    kept = [share**n for n in lengths]
    ahead = [(1 - share**n) / (n * (1 - share)) for n in lengths]
    letters = [
        (_letter(reading.text), _letter(reply.text))
        for probe, reading, reply in zip(trained.probes, trained.readings, replies, strict=True)
        if probe.options and _letter(reading.text)
    ]
    checks = [
        _same(
            "replies that came",
            sum(a or not b for a, b in zip(came, _spoke(trained), strict=True)),
            len(came),
            f"The server gave no reply to {{n}} of {{total}} prompts ({_why(replies)})",
        ),
        _least(
            "equal replies",
            statistics.fmean(a == b for a, b in said),
            statistics.fmean(kept),
            "{value:.3f} of the greedy replies are those of the trained model, at least "
            "{limit:.3f} are expected: look at the chat template, the weights and the sampling "
            "of the server",
        ),
        _least(
            "equal words at the start",
            statistics.fmean(_start(*pair) for pair in said),
            statistics.fmean(ahead),
            "{value:.3f} of the words of the greedy replies come before the first other one, at "
            "least {limit:.3f} are expected",
        ),
        *_choices(letters, ROUNDED.choices),
    ]
    return Verdict(
        trained=trained.model, other=chat.name, probes=len(replies), checks=tuple(checks)
    )


def write(folder: Path, found: Measured | Verdict) -> None:
    """Write what the trained model did, or the verdict on an export, as parity.json."""
    record = Record(verdict=found) if isinstance(found, Verdict) else Record(trained=found)
    store.write_text(folder / FILE, record.model_dump_json() + "\n")


def read(folder: Path) -> Measured | None:
    """Return what the trained model did, or None where the folder has no such record."""
    found = _record(folder)
    return found.trained if found else None


def read_verdict(folder: Path) -> Verdict | None:
    """Return the verdict on an export, or None where there is none."""
    found = _record(folder)
    return found.verdict if found else None


def _record(folder: Path) -> Record | None:
    try:
        return Record.model_validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _measured(
    model: local.LocalModel,
    probes: Sequence[Probe],
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    texts: Sequence[str],
    max_tokens: int,
) -> Measured:
    """Return the record: every prompt is read once, with its reply, reference and options."""
    if not probes:
        raise StepError("There is no prompt to compare models with: the study has no question.")
    held = model.load()
    groups = [
        [
            reply,
            local.reply_ids(held.tokenizer, probe.reference),
            *(local.reply_ids(held.tokenizer, option) for option in probe.options),
        ]
        for probe, reply in zip(probes, replies, strict=True)
    ]
    readings = []
    for place, group in enumerate(model.read(prompts, groups)):
        if any(not -1e9 < value <= 0 for read in group for value in read.logprobs):
            raise StepError(
                f"{model.name} gives probabilities that are no numbers: its weights are broken; "
                f"train or export it again."
            )
        reply, reference, *options = group or [local.Read([], []), local.Read([], [])]
        probe = probes[place]
        answered = [*probe.chat, Message(role="assistant", content=probe.reference)]
        readings.append(
            Reading(
                prompt=digest(list(prompts[place])),
                rendered=digest(
                    _rendered(held.tokenizer, probe.chat, reply_follows=True),
                    _rendered(held.tokenizer, answered, reply_follows=False),
                ),
                reply=tuple(replies[place]),
                text=texts[place],
                likeliest=tuple(reply.likeliest),
                logprobs=tuple(round(value, 6) for value in reply.logprobs),
                reference=(
                    round(statistics.fmean(reference.logprobs), 6) if reference.logprobs else None
                ),
                options=tuple(round(sum(option.logprobs), 6) for option in options),
            )
        )
    return Measured(
        model=model.name,
        dtype=str(held.model.dtype).removeprefix("torch."),
        special=_special_tokens(held),
        max_tokens=max_tokens,
        probes=tuple(probes),
        readings=tuple(readings),
    )


def _prompts(tokenizer: "PreTrainedTokenizerBase", probes: Sequence[Probe]) -> list[list[int]]:
    return [local.chat_ids(tokenizer, probe.chat) for probe in probes]


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, reply_follows: bool
) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply_follows
        )
    )


def _text(held: local.Held, reply: Sequence[int]) -> str:
    tokens = [token for token in reply if token not in held.ends]
    return str(held.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _special_tokens(held: local.Held) -> Special:
    def name(token: int | None) -> str:
        return "" if token is None else f"{token} {held.tokenizer.convert_ids_to_tokens(token)}"

    return Special(
        bos=name(held.tokenizer.bos_token_id),
        eos=name(held.tokenizer.eos_token_id),
        pad=name(held.tokenizer.pad_token_id),
        ends=tuple(map(name, held.ends)),
    )


def _special(trained: Special, other: Special) -> Check:
    """Return the check that prompts begin and replies end with the same tokens."""
    names = {"bos": "BOS", "eos": "EOS", "pad": "padding", "ends": "end"}
    changed = []
    for field, name in names.items():
        before, after = (_listed(getattr(part, field)) for part in (trained, other))
        if before != after:
            changed.append(f"{name} {before} became {after}")
    return Check(
        name="special tokens",
        value="; ".join(changed) or "the same",
        limit="the same",
        ok=not changed,
        failure=f"Special tokens changed: {'; '.join(changed)}." if changed else "",
    )


def _listed(value: str | tuple[str, ...]) -> str:
    return (value if isinstance(value, str) else ", ".join(value)) or "none"


def _same(name: str, same: int, total: int, sentence: str) -> Check:
    ok = same == total
    said = sentence.format(n=total - same, total=total)
    return Check(
        name=name,
        value=f"{same} of {total}",
        limit=f"{total} of {total}",
        ok=ok,
        failure="" if ok else f"{said}.",
    )


def _least(name: str, value: float, limit: float, sentence: str) -> Check:
    # Shares are sums of floats: one that is the limit to the last digit has reached it.
    ok = value >= limit - 1e-9
    said = sentence.format(value=value, limit=limit)
    return Check(name=name, value=value, limit=limit, ok=ok, failure="" if ok else f"{said}.")


def _agreement(pairs: Sequence[tuple[Reading, Reading]], limits: Limits) -> Check:
    total = sum(len(a.reply) for a, _ in pairs)
    same = sum(
        taken == token for a, b in pairs for token, taken in zip(a.reply, b.likeliest, strict=False)
    )
    return _least(
        "token agreement",
        same / total if total else 0.0,
        limits.agreement,
        f"{total - same} of {total} tokens of the trained model's replies would be others "
        "(agreement {value:.4f}, at least {limit})",
    )


def _differences(pairs: Sequence[tuple[Reading, Reading]], limits: Limits) -> Iterator[Check]:
    """Yield the mean and the largest difference of the log-likelihood per token, over probes.

    References are read as well as replies: the trained model's own tokens are likely to it, and
    hide what has changed.
    """
    found = [
        abs(before - after)
        for a, b in pairs
        for before, after in (
            (a.reference, b.reference),
            (_mean(a.logprobs), _mean(b.logprobs)),
        )
        if before is not None and after is not None
    ]
    for name, value, limit in (
        ("log-likelihood, mean difference", statistics.fmean(found or [0]), limits.difference),
        ("log-likelihood, largest difference", max(found, default=0.0), limits.largest),
    ):
        ok = bool(found) and value <= limit
        yield Check(
            name=name,
            value=value,
            limit=limit,
            ok=ok,
            failure=""
            if ok
            else f"The {name.partition(', ')[2]} of the log-likelihood per token is {value:.2g}, "
            f"at most {limit:g} is allowed.",
        )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _choices(pairs: Sequence[tuple[object, object]], share: float) -> Iterator[Check]:
    """Yield the check of how many choices changed, where there are any."""
    if not pairs:
        return
    changed = sum(before != after for before, after in pairs)
    allowed = math.ceil(share * len(pairs))
    yield Check(
        name="choices changed",
        value=f"{changed} of {len(pairs)}",
        limit=f"{allowed} of {len(pairs)}",
        ok=changed <= allowed,
        failure=""
        if changed <= allowed
        else f"{changed} of {len(pairs)} choice questions get another answer, at most {allowed} "
        f"may.",
    )


def _letter(text: str) -> str:
    found = LETTER.fullmatch(text.strip())
    return found.group(1) if found else ""


def _start(before: Sequence[str], after: Sequence[str]) -> float:
    """Return the share of the words before that stand at the start of those after."""
    same = 0
    for a, b in zip(before, after, strict=False):
        if a != b:
            break
        same += 1
    return same / len(before) if before else float(not after)


def _spoke(trained: Measured) -> list[bool]:
    return [bool(reading.text) for reading in trained.readings]


def _why(replies: Sequence[Reply]) -> str:
    return next((reply.reason for reply in replies if reply.reason and not reply.text), "no reason")
