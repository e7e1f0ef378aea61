"""Open weights in this process: the replies and likelihoods of a model, or of base+adapter."""

import gc
import inspect
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ecg_llm import store
from ecg_llm.contracts import (
    EMPTY,
    Decoding,
    Likelihood,
    Message,
    Messages,
    MissingPackage,
    Reply,
    Schema,
    UsageError,
)
from ecg_llm.streaming import Speaker

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Quantization = Literal["none", "nf4"]
RECORD = "tuning.json"
"""What an adapter was trained on and how, in its folder."""
DIGESTED = 2**30
"""Bytes of weights that are read once more to see that they are those an adapter was trained on."""
CPU_TOKENS = 2048
"""Padded tokens of a batch on a CPU: longer prompts are slower together than one by one."""
READING = 2**30
"""Bytes that replies read together may take besides the weights; a single one may take more."""
LOGIT_BYTES = 6
"""Bytes of a logit at the peak: 16 bits and a copy in float32, which training's autocast makes, or
float32 and what softcapping needs."""
PIECE = 2**24
"""Logits that are normalised at once, in float32."""
SETTLED = {
    "enable_thinking": "{% set enable_thinking = false %}",
    "strftime_now": "{% macro strftime_now(form) %}{{ form | replace('%d', '26')"
    " | replace('%m', '07') | replace('%b', 'Jul') | replace('%B', 'July')"
    " | replace('%Y', '2024') | replace('%y', '24') }}{% endmacro %}",
}
"""What is put before a chat template that asks for one of these, so that training, asking and an
exported model see the same tokens: no thoughts before the reply, and Llama 3.1's fixed date instead
of today's."""
HARMLESS = (
    "`is_gradient_checkpointing` is deprecated",  # peft 0.21 still asks transformers 5.23 so
    "Model has `tie_word_embeddings=True` and a tied layer",  # matters only to who merges
    r"The following \w+_pattern keys did not match",  # experts' are followed all the same
)


AGAIN = "remove that folder and train again with: ecg-llm train"


class LocalModel:
    """A causal language model that replies to chats and whose probabilities can be read.

    `path_or_id` is a folder or a Hugging Face id, `adapter` the folder of a PEFT adapter and
    `label` what the name shows instead of path_or_id. Nothing is loaded before the first use;
    `batch` prompts are computed together, in the order given, so callers sort them by length.
    """

    def __init__(
        self,
        path_or_id: str,
        *,
        revision: str = "main",
        adapter: Path | None = None,
        quantization: Quantization = "none",
        batch: int = 8,
        label: str = "",
    ) -> None:
        self.path_or_id = path_or_id
        self.revision = revision
        self.adapter = adapter
        self.quantization: Quantization = quantization
        self.batch = batch
        self.label = label
        self._name = ""
        self._weights = ""
        self._held: Held | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def around(
        cls, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, batch: int = 8
    ) -> "LocalModel":
        """Return a LocalModel of weights that are in memory already, such as those in training."""
        made = cls(model.config.name_or_path, batch=batch)
        made._name = f"{Path(model.config.name_or_path).name} in memory"
        made._tokenizer = tokenizer
        made._held = Held(model, tokenizer, end_ids(model, tokenizer), context(model))
        return made

    @property
    def name(self) -> str:
        """label@revision+adapter; weights in a folder count by their digest, not by their place."""
        if not self._name:
            place = Path(self.path_or_id)
            label = self.label or (place.name if place.is_dir() else self.path_or_id)
            if place.is_dir():
                self._weights = weights_digest(place)
            revision = self._weights or self.revision
            quantization = "" if self.quantization == "none" else f"-{self.quantization}"
            adapter = f"+{weights_digest(self.adapter)}" if self.adapter else ""
            self._name = f"{label}@{revision}{quantization}{adapter}"
        return self._name

    def generate(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | None = None,
    ) -> list[Reply]:
        """Return one reply a prompt, in order; only tokens after the prompt are decoded.

        Greedy at temperature 0, else each batch is sampled with the call's own seed. A reply that
        reaches max_tokens is "truncated"; an empty one, and a prompt that leaves no room for
        max_tokens in the model's context, is an "error". `schema` is not enforced.

        Raises:
            UsageError: the model cannot be loaded.
        """
        replies = dict(self.replies(prompts, decoding, schema))
        return [replies[i] for i in range(len(prompts))]

    def replies(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | Sequence[Schema] | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (place of the prompt, its reply) batch by batch; else as `generate`."""
        if not prompts:
            return
        held = self.load()
        ids = [chat_ids(held.tokenizer, prompt) for prompt in prompts]
        left = []
        for i, prompt in enumerate(ids):
            if problem := held.too_long(len(prompt), decoding.max_tokens):
                yield i, Reply("", "error", problem, tokens_in=len(prompt))
            else:
                left.append(i)
        for chosen in self._batches(left, ids, held):
            started = time.monotonic()
            with _seeded(decoding):
                made = _generate(held, [ids[i] for i in chosen], decoding)
            share = (time.monotonic() - started) / len(chosen)
            for i, reply in zip(chosen, made, strict=True):
                yield i, replace(reply, seconds=share)

    def streamed(self, messages: Messages, decoding: Decoding, say: Callable[[str], None]) -> Reply:
        """Return the reply that `generate` gives, having called `say` with its words as they came.

        Raises:
            UsageError: the model cannot be loaded.
        """
        held = self.load()
        ids = chat_ids(held.tokenizer, messages)
        if problem := held.too_long(len(ids), decoding.max_tokens):
            return Reply("", "error", problem, tokens_in=len(ids))
        speaker = Speaker(say)
        started = time.monotonic()
        with _seeded(decoding):
            (reply,) = _generate(held, [ids], decoding, _Streamer(held, speaker))
        speaker.finish(reply.text)
        return replace(reply, seconds=time.monotonic() - started)

    def likelihoods(
        self, prompts: Sequence[Messages], continuations: Sequence[Sequence[str]]
    ) -> list[list[Likelihood]]:
        """Return, for each prompt, the likelihood of each of its continuations as the reply.

        The sum runs over the tokens of the continuation's text, without an end token (as
        lm-evaluation-harness does), in nats. A prompt that does not fit into the model's context
        with its continuations gets an empty list.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if not any(continuations):
            return [[] for _ in prompts]
        held = self.load()
        ids = [chat_ids(held.tokenizer, prompt) for prompt in prompts]
        known = {
            text: reply_ids(held.tokenizer, text)
            for text in dict.fromkeys(text for group in continuations for text in group)
        }
        texts = [[known[text] for text in group] for group in continuations]
        return [
            [Likelihood(sum(read.logprobs), len(read.logprobs)) for read in group]
            for group in self.read(ids, texts)
        ]

    def greedy(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        """Return the tokens of the greedy reply to each prompt of tokens, with its end token.

        A prompt that leaves no room for max_tokens in the model's context gets no token.
        """
        held = self.load()
        found: list[list[int]] = [[] for _ in prompts]
        left = [i for i, ids in enumerate(prompts) if not held.too_long(len(ids), max_tokens)]
        for chosen in self._batches(left, prompts, held):
            made = _written(held, [prompts[i] for i in chosen], Decoding(max_tokens))
            for i, tokens in zip(chosen, made, strict=True):
                end = next((n for n, token in enumerate(tokens) if token in held.ends), None)
                found[i] = tokens if end is None else tokens[: end + 1]
        return found

    def read(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[Sequence[int]]]
    ) -> list[list["Read"]]:
        """Return, for each prompt of tokens, how the model reads each of these replies to it.

        A prompt that does not fit into the model's context with its replies gets an empty list.
        """
        held = self.load()
        found: list[list[Read]] = [[] for _ in prompts]
        left = [
            i
            for i, (prompt, group) in enumerate(zip(prompts, replies, strict=True))
            if group and not held.too_long(len(prompt), max(len(reply) for reply in group))
        ]
        for chosen in self._batches(left, prompts, held):
            for part in _portions(held, chosen, prompts, replies):
                some = [replies[i][start:end] for i, start, end in part]
                made = _read(held, [prompts[i] for i, _, _ in part], some)
                for (i, _, _), row in zip(part, made, strict=True):
                    found[i] += row
        return found

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens not counted."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.path_or_id, self.revision)
        return [len(text_ids(self._tokenizer, text)) for text in texts]

    def close(self) -> None:
        """Give the memory of the weights back; the next use loads them again."""
        import torch

        self._held = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _batches(
        self, rows: Sequence[int], ids: Sequence[Sequence[int]], held: "Held"
    ) -> Iterator[list[int]]:
        """Cut the rows, in their order, into batches; long prompts go alone on a CPU."""
        tokens = CPU_TOKENS if held.model.device.type == "cpu" else 10**9
        most = self.batch if may_pad(held.model) else 1
        chosen: list[int] = []
        for row in rows:
            longest = max(len(ids[other]) for other in (*chosen, row))
            if chosen and (len(chosen) == most or longest * (len(chosen) + 1) > tokens):
                yield chosen
                chosen = []
            chosen.append(row)
        if chosen:
            yield chosen

    def load(self) -> "Held":
        """Return the model in memory with what is needed to talk to it.

        Raises:
            UsageError: the model cannot be loaded, or the adapter was trained on another one.
        """
        if self._held is None:
            import torch

            dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
            tokenizer = load_tokenizer(self.path_or_id, self.revision)
            if self.adapter is not None and (self.adapter / "config.json").is_file():
                # A full fine-tuning: the folder holds all weights.
                model = load_model(str(self.adapter), "main", dtype, self.quantization)
            else:
                model = load_model(self.path_or_id, self.revision, dtype, self.quantization)
                if self.adapter is not None:
                    check_base(self.path_or_id, self.adapter, self._weights)
                    model = load_adapter(model, self.adapter).get_base_model()
            self._tokenizer = tokenizer
            self._held = Held(model.eval(), tokenizer, end_ids(model, tokenizer), context(model))
        return self._held


class Read(NamedTuple):
    """A reply as a model reads it token by token, each after those before it."""

    logprobs: list[float]
    """Log-probability of each token, in nats."""
    likeliest: list[int]
    """The token that the model would have taken in its place."""


class Held(NamedTuple):
    """A loaded model with what is needed to talk to it."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    ends: tuple[int, ...]
    context: int

    def too_long(self, prompt: int, reply: int) -> str:
        """Return why a prompt and a reply of so many tokens do not fit, or nothing."""
        if prompt + reply <= self.context:
            return ""
        return (
            f"the prompt has {prompt} tokens and the reply may take {reply}, "
            f"but the model's context is {self.context}"
        )


def load_tokenizer(path_or_id: str, revision: str = "main") -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a chat model, with a padding token and a template that is settled.

    Raises:
        UsageError: there is no tokenizer, or it has no chat template.
    """
    from transformers import AutoTokenizer

    with _loading(path_or_id):
        tokenizer = AutoTokenizer.from_pretrained(path_or_id, revision=revision or "main")
    if not tokenizer.chat_template:
        raise UsageError(
            f"The tokenizer of {path_or_id} has no chat template; choose the instruct variant "
            f"of the model."
        )
    template = tokenizer.chat_template
    tokenizer.chat_template = (
        {name: settled(text) for name, text in template.items()}
        if isinstance(template, dict)
        else settled(template)
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # A text too long becomes an error reply with its reason; the library's warning adds nothing.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def settled(template: str) -> str:
    """Return a chat template that neither the date nor a switch for thinking changes."""
    head = "".join(text for name, text in SETTLED.items() if name in template)
    return template if template.startswith(head) else head + template


def load_model(
    path_or_id: str,
    revision: str,
    dtype: "torch.dtype",
    quantization: Quantization = "none",
    *,
    on_gpu: bool = True,
) -> "PreTrainedModel":
    """Return a causal language model, on the GPU of this process where there is one.

    Raises:
        UsageError: not a causal language model, or nf4 without CUDA.
        MissingPackage: nf4 without bitsandbytes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    revision = revision or "main"
    _causal_config(path_or_id, revision)
    options = _nf4() if quantization == "nf4" else None
    with _loading(path_or_id):
        return AutoModelForCausalLM.from_pretrained(
            path_or_id,
            revision=revision,
            dtype=dtype,
            quantization_config=options,
            device_map={"": int(os.environ.get("LOCAL_RANK", "0"))}
            if on_gpu and torch.cuda.is_available()
            else None,
        )


def skeleton(path_or_id: str, revision: str) -> "PreTrainedModel":
    """Return a causal language model without weights, on the meta device; reads its config alone.

    Raises:
        UsageError: not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    settings = _causal_config(path_or_id, revision or "main")
    with _loading(path_or_id), torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings)


def _causal_config(path_or_id: str, revision: str) -> "PreTrainedConfig":
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as known

    with _loading(path_or_id):
        settings = AutoConfig.from_pretrained(path_or_id, revision=revision)
    writes = set(settings.architectures or ()) & set(
        known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    )
    # Decoders that were made to follow an encoder, and encoders that see what comes.
    half = settings.model_type in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    sees_ahead = settings.model_type in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(
        settings, "is_decoder", True
    )
    if not writes or half or sees_ahead:
        made = ", ".join(settings.architectures or ()) or "of an unnamed architecture"
        raise UsageError(
            f"{path_or_id} is {made}, not a causal language model; choose one that writes text."
        )
    return settings


def check_base(path_or_id: str, adapter: Path, digest: str = "") -> None:
    """Raise where the adapter was trained on other weights of the same shape.

    Weights on this machine are known by a digest of their files. It is compared where the name
    needed it anyway or the files are small, not at the price of reading them twice.

    Raises:
        UsageError: they are others.
    """
    place = Path(path_or_id)
    trained_on = str((store.read_json(adapter / RECORD) or {}).get("base_weights", ""))
    if not place.is_dir() or not re.fullmatch("[0-9a-f]{12}", trained_on):
        return
    size = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    known = digest or (weights_digest(place) if size <= DIGESTED else trained_on)
    if known != trained_on:
        raise UsageError(
            f"The adapter in {adapter} was trained on other weights than those in {place} "
            f"({trained_on}, not {known}); take the base that it was trained on, or {AGAIN}."
        )


def load_adapter(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """Return the model with the LoRA adapter of this folder put into its layers, as PEFT's model.

    Raises:
        UsageError: the folder holds no adapter, or one for another model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError, safe_open

    if not (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} holds no adapter; {AGAIN}.")
    misfit = (
        f"The adapter in {folder} was trained for another model than "
        f"{model.config.name_or_path}: its layers have other names or sizes; take the base that "
        f"it was trained on, or {AGAIN}."
    )
    try:
        with quiet(), warnings.catch_warnings():
            # PEFT only warns of layers for which the adapter holds nothing.
            warnings.filterwarnings("error", "Found missing adapter keys")
            tuned = PeftModel.from_pretrained(model, str(folder))
        weights = folder / "adapter_model.safetensors"
        if weights.is_file():
            with safe_open(weights, "pt") as file:
                stored = sum(".lora_" in name for name in file.keys())  # noqa: SIM118  # no mapping
            if stored != sum(".lora_" in name for name in tuned.state_dict()):
                raise UsageError(misfit)
    except (RuntimeError, ValueError, UserWarning) as error:
        raise UsageError(misfit) from error
    except (OSError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"The adapter in {folder} cannot be read ({str(error).splitlines()[0][:200]}); train "
            f"it again with: ecg-llm train"
        ) from error
    return tuned


def weights_digest(folder: Path) -> str:
    """Return 12 hex digits that name the weights in a folder."""
    has_weights = any(folder.glob("*.safetensors"))
    return store.folder_digest(folder, "*.safetensors" if has_weights else "*")[:12]


def chat_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, *, reply_follows: bool = True
) -> list[int]:
    """Return the tokens of a chat by the model's own template.

    Control tokens that occur inside a message are tokenised as the text they are: the words of a
    document can never end a turn or start another. That holds for tokens: turns that a template
    marks with ordinary text (OLMo's "<|user|>", the [INST] of Mistral 0.2) cannot be protected.

    Raises:
        UsageError: the template refuses the chat.
    """
    from jinja2 import TemplateError

    chat: list[Message] = list(messages)
    try:
        ids = tokenizer.apply_chat_template(
            chat,
            add_generation_prompt=reply_follows,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
    except TemplateError as error:
        raise UsageError(f"The model's chat template refuses a chat: {error}") from error
    return [int(token) for token in ids]


class Turn(NamedTuple):
    """The tokens of a prompt, of the reply to it, and the one that ends the reply, if any does."""

    prompt: list[int]
    reply: list[int]
    end: list[int]


def turn(tokenizer: "PreTrainedTokenizerBase", prompt: Messages, reply: str) -> Turn:
    """Return a prompt with its reply as the template writes them together.

    White space around the reply is no part of it. What follows the end token, such as a line
    break, is left out: generation has stopped before it.

    Raises:
        UsageError: the template writes the prompt otherwise once a reply follows, or not the
            reply right after it.
    """
    # The library marks control tokens with these two and takes them out of what it is given.
    text = reply.replace("\U000f0000", "").replace("\U000f0001", "").strip()
    start = chat_ids(tokenizer, prompt)
    answered = [*prompt, Message(role="assistant", content=text)]
    whole = chat_ids(tokenizer, answered, reply_follows=False)
    if whole[: len(start)] != start:
        raise UsageError(
            "The model's chat template writes the prompt differently once a reply follows, so it "
            "would be trained on other prompts than it is asked; choose a model that replies "
            "without thinking first, or give the tokenizer a template that only adds the reply."
        )
    rest = whole[len(start) :]
    # Only the template writes special tokens: those in a message are text.
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    end = next((i for i, token in enumerate(rest) if token in special), len(rest))
    made = Turn(start, rest[:end], rest[end : end + 1])
    written, meant = _text(tokenizer, made.reply), _text(tokenizer, text_ids(tokenizer, text))
    # Beside a control token in a reply, tokenizers of the SentencePiece kind may add a space.
    if "".join(written.split()) != "".join(meant.split()):
        raise UsageError(
            f"The model's chat template writes {_text(tokenizer, rest)[:80]!r} for the reply "
            f"{text[:80]!r}; give the tokenizer a template that adds a reply as it is, right "
            f"after the prompt."
        )
    return made


def reply_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the tokens of a text as the reply to a prompt, the end token not among them.

    Some tokenizers write the first word after a chat's control token with other tokens than at
    the start of a text.
    """
    try:
        return turn(tokenizer, [{"role": "user", "content": "?"}], text).reply
    except UsageError:
        # Such a model thinks before it replies, so that no tokens stand right after its prompt.
        return text_ids(tokenizer, text)


def _text(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def text_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the tokens of a text, none of them special."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return [int(token) for token in ids]


def end_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return the tokens that end a reply: the generation configuration's and the tokenizer's."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ends = {named} if isinstance(named, int) else set(named or ())
    return tuple(sorted(ends | ({tokenizer.eos_token_id} - {None})))


def context(model: "PreTrainedModel") -> int:
    """Return how many tokens prompt and reply may have together."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else 10**9


class _Streamer:
    """Says whole words while `generate` of transformers hands their tokens over."""

    def __init__(self, held: Held, speaker: Speaker) -> None:
        self._held = held
        self._speaker = speaker
        self._tokens: list[int] | None = None

    def put(self, tokens: "torch.Tensor") -> None:
        """Take the prompt first, and then each new token."""
        if self._tokens is None:
            self._tokens = []
            return
        self._tokens += tokens.flatten().tolist()
        text = _reply(self._held, self._tokens, 0).text
        self._speaker.hear(re.sub(r"\s*\S*\Z", "", text))  # the last word may go on

    def end(self) -> None:
        """Leave the last word to the whole reply."""


def _generate(
    held: Held,
    ids: Sequence[Sequence[int]],
    decoding: Decoding,
    streamer: _Streamer | None = None,
) -> list[Reply]:
    """Return the replies to one batch of prompts; only a single one can be streamed."""
    written = _written(held, ids, decoding, streamer)
    return [_reply(held, new, len(prompt)) for new, prompt in zip(written, ids, strict=True)]


def _written(
    held: Held,
    ids: Sequence[Sequence[int]],
    decoding: Decoding,
    streamer: _Streamer | None = None,
) -> list[list[int]]:
    """Return the tokens written after each prompt of one batch, whatever stands after the end."""
    import torch
    from transformers import GenerationConfig

    inputs, mask = _padded(ids, held, side="left")
    sampling: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": 0,
        }
    # The model's own configuration would fill what is not said here (Llama's samples at 0.6). It is
    # put back afterwards: a model in memory may be saved later.
    own = held.model.generation_config
    held.model.generation_config = GenerationConfig(
        max_new_tokens=decoding.max_tokens,
        eos_token_id=list(held.ends),
        pad_token_id=held.tokenizer.pad_token_id,
        **sampling,
    )
    try:
        with torch.inference_mode():
            made = held.model.generate(input_ids=inputs, attention_mask=mask, streamer=streamer)
    finally:
        held.model.generation_config = own
    written: list[list[int]] = made[:, inputs.shape[1] :].tolist()
    return written


def _reply(held: Held, tokens: Sequence[int], tokens_in: int) -> Reply:
    """Return the reply that these new tokens make, up to the first end token."""
    end = next((i for i, token in enumerate(tokens) if token in held.ends), None)
    kept = tokens[:end]
    text = held.tokenizer.decode(kept, skip_special_tokens=True).strip()
    if end is None:
        return Reply(text, "truncated", "cut at max_tokens", tokens_in, len(kept))
    if not text:
        return Reply("", "error", EMPTY, tokens_in, end + 1)
    return Reply(text, "ok", "", tokens_in, end + 1)


def takes(model: "PreTrainedModel | PeftModel", argument: str) -> bool:
    """Return whether the model's forward pass knows this argument by name."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(type(inner).forward).parameters


def may_pad(model: "PreTrainedModel | PeftModel") -> bool:
    """Return whether a prompt may stand beside a longer one, filled up on the left.

    A model that is not told the positions may take the padding for text, as RWKV does; MiniMax
    does so from the second token that it writes.
    """
    return takes(model, "position_ids") and model.config.model_type != "minimax"


def may_pack(model: "PreTrainedModel | PeftModel") -> bool:
    """Return whether examples in one row might be kept apart by where positions start anew.

    Without positions, or with a state that is carried from token to token, one example reaches
    into the next: often by so little that comparing what is computed does not show it.
    """
    return takes(model, "position_ids") and _shares_prompts(model)


def beside_text(model: "PreTrainedModel") -> str:
    """Return a pattern of the names of modules that text never reaches, such as an image encoder's.

    Empty where there are none. It is what LoraConfig takes as `exclude_modules`.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    inside = names.get(decoder)
    if not inside or not hasattr(model.config, "text_config"):
        return ""
    return rf"(?!{re.escape(inside)}\.|{re.escape(names.get(head, inside))}$).*"


def _shares_prompts(model: "PreTrainedModel | PeftModel") -> bool:
    """Return whether what a model keeps of a prompt can be handed to several replies.

    That is keys and values; the states of recurrent layers and convolutions cannot be chosen from
    a batch, and some take up no more than one token at a time.
    """
    from transformers import cache_utils as known

    plain = (known.DynamicLayer, known.DynamicSlidingWindowLayer, known.DummyLayer)
    try:
        layers = known.DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, ValueError):
        return False  # the model brings a cache of its own
    return takes(model, "past_key_values") and all(type(layer) in plain for layer in layers)


def _portions(
    held: Held,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[Sequence[int]]],
) -> Iterator[list[tuple[int, int, int]]]:
    """Cut the replies to these prompts, in order, so that reading takes at most READING bytes.

    A portion is of (row, first of its replies, end of its replies).
    """
    shares = _shares_prompts(held.model)
    logits = LOGIT_BYTES * held.model.config.get_text_config().vocab_size
    cached = _cached_bytes(held.model) if shares else 0
    together = shares or may_pad(held.model)
    part: list[tuple[int, int, int]] = []
    count = prompt = reply = 0
    for row in rows:
        for place, text in enumerate(replies[row]):
            prompt, reply = max(prompt, len(prompts[row])), max(reply, len(text))
            size = (count + 1) * (reply * logits + (prompt + reply) * cached)
            if part and (size > READING or not together):
                yield part
                part, count, prompt, reply = [], 0, len(prompts[row]), len(text)
            if part and part[-1][0] == row:
                part[-1] = (row, part[-1][1], place + 1)
            else:
                part.append((row, place, place + 1))
            count += 1
    if part:
        yield part


def _cached_bytes(model: "PreTrainedModel") -> int:
    """Return the bytes of the keys and values of a token, in all layers."""
    settings = model.config.get_text_config()
    heads = settings.num_attention_heads
    size = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    kept = getattr(settings, "num_key_value_heads", None) or heads
    return int(2 * model.dtype.itemsize * settings.num_hidden_layers * kept * size)


def _read(
    held: Held, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Sequence[int]]]
) -> list[list[Read]]:
    """Return the replies of one batch as read."""
    import torch

    texts = [text for group in groups for text in group]
    with torch.inference_mode():
        if _shares_prompts(held.model):
            chosen, likeliest = _read_once(held, prompts, groups)
        else:
            starts = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
            chosen, likeliest = _read_whole(held, starts, texts)
    reads = (
        Read(logprobs[: len(text)], best[: len(text)])
        for text, logprobs, best in zip(texts, chosen.tolist(), likeliest.tolist(), strict=True)
    )
    return [[next(reads) for _ in group] for group in groups]


def _read_once(
    held: Held, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Sequence[int]]]
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return `_scores` of the replies; each prompt is computed once and shared by its group."""
    import torch

    rows = [i for i, group in enumerate(groups) for _ in group]
    inputs, mask = _padded(prompts, held, side="left")
    targets, lengths = _padded([text for group in groups for text in group], held, side="right")
    read = held.model(
        input_ids=inputs,
        attention_mask=mask,
        position_ids=_positions(mask),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = read.past_key_values
    first = _scores(read.logits[:, -1][rows].unsqueeze(1), targets[:, :1])
    del read  # the logits, of every token where the model does not take logits_to_keep
    if targets.shape[1] < 2:
        return first
    cache.batch_select_indices(torch.tensor(rows, device=inputs.device))
    seen = torch.cat([mask[rows], lengths[:, :-1]], dim=1)
    rest = held.model(
        input_ids=targets[:, :-1],
        attention_mask=seen,
        position_ids=_positions(seen)[:, mask.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    )
    second = _scores(rest.logits, targets[:, 1:])
    return torch.cat([first[0], second[0]], dim=1), torch.cat([first[1], second[1]], dim=1)


def _read_whole(
    held: Held, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return `_scores` of the replies, each computed with a prompt of its own."""
    import torch

    targets, _ = _padded(texts, held, side="right")
    width = targets.shape[1]
    # Each prompt ends in the same place, and its reply is filled up after it, where no token of it
    # looks: so the logits of all replies are the same last ones.
    inputs, mask = _padded(prompts, held, side="left")
    seen = torch.cat([mask, torch.ones_like(targets)], dim=1)[:, : inputs.shape[1] + width - 1]
    read = held.model(
        input_ids=torch.cat([inputs, targets], dim=1)[:, : seen.shape[1]],
        attention_mask=seen,
        position_ids=_positions(seen),
        use_cache=False,
        logits_to_keep=width,
    )
    return _scores(read.logits[:, -width:], targets)


def _scores(logits: "torch.Tensor", targets: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the log-probability of each target and the likeliest token in its place.

    `logits` are (rows, tokens, vocabulary), what comes back (rows, tokens). They are normalised
    piece by piece, so that no second array of their size is made.
    """
    import torch

    size = max(1, PIECE // logits.shape[2])
    chosen, likeliest = [], []
    for row, wanted in zip(logits, targets, strict=True):
        for some, token in zip(row.split(size), wanted.split(size), strict=True):
            piece = some.float()
            found = piece.gather(1, token.unsqueeze(1)).squeeze(1)
            chosen.append(found - piece.logsumexp(1))
            likeliest.append(piece.argmax(1))
    return torch.cat(chosen).view_as(targets), torch.cat(likeliest).view_as(targets)


def _padded(
    ids: Sequence[Sequence[int]], held: Held, *, side: Literal["left", "right"]
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return tokens and mask, both (sequences, longest), on the model's device."""
    import torch

    width = max(1, *(len(row) for row in ids))
    tokens = torch.full((len(ids), width), held.tokenizer.pad_token_id)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(ids):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[i, place] = torch.tensor(row, dtype=tokens.dtype)
        mask[i, place] = 1
    return tokens.to(held.model.device), mask.to(held.model.device)


def _positions(mask: "torch.Tensor") -> "torch.Tensor":
    """Return the position of every token when padding takes none."""
    return (mask.cumsum(1) - 1).clamp(min=0)


@contextmanager
def _seeded(decoding: Decoding) -> Iterator[None]:
    """Sample from the call's own seed and leave the process's random state as it was."""
    import torch

    if decoding.temperature <= 0:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(decoding.seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Load, train and save without the progress bars and remarks of the libraries."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _loading(path_or_id: str) -> Iterator[None]:
    """Turn what can go wrong in loading a model into one sentence."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{path_or_id} cannot be loaded as a language model ({why[:200]}); give a folder with "
            f"config.json, tokenizer and safetensors, or a model that was downloaded before with: "
            f"hf download {path_or_id}"
        ) from error


def _nf4() -> Any:
    """Return the 4-bit settings of the paper: NF4, no double quantisation, bf16 compute."""
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UsageError(
            "4-bit weights (nf4, qlora) need a CUDA GPU; use quantization: none or method: lora."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackage("bitsandbytes", "'ecg-llm[cuda]'", "4-bit weights")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=False,
        bnb_4bit_compute_dtype=torch.bfloat16,
        # The bytes are the same; FSDP shards only weights whose type is one of floating point.
        bnb_4bit_quant_storage=torch.bfloat16,
    )


def reset_memory() -> None:
    """Let `memory_used` count from now on; what is held stays."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def memory_used() -> int:
    """Return the most bytes held on the GPU since `reset_memory`, all models of this process.

    Without a GPU those that are resident now.
    """
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
