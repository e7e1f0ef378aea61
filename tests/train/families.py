"""Tiny tokenizers with the special tokens and the shape of chat template of known families."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from ecg_llm.train.nano import SPLIT

TEXTS = [
    "The correct answer is B. A PR interval longer than 200 ms means first-degree AV block.",
    "Question: What does a wide QRS complex mean?\n\nAnswer with the letter.\nA) yes\nB) no\n",
    "Ein verlängertes QT-Intervall weist auf ein Risiko für Torsade de pointes hin.\n\n",
    "system user assistant model Cutting Knowledge Date: December 2023 You are helpful.",
]


@dataclass(frozen=True)
class Family:
    """What a model family's tokenizer and chat template look like."""

    template: str
    controls: tuple[str, ...]
    """Special tokens that its chats are made of."""
    end: str
    """The token that closes a reply."""
    build: Callable[[Sequence[str], Sequence[str]], Tokenizer]
    """Returns the tokenizer of (special tokens, other added tokens)."""
    bos: str | None = None
    eos: str = ""
    """The tokenizer's end token, where that is another one than `end`."""
    added: tuple[str, ...] = ()
    """Added tokens that are not special."""
    bos_count: int = 1
    """How often the BOS token stands in a prompt with its reply."""


def byte_level(
    special: Sequence[str], added: Sequence[str] = (), *, nfc: bool = False, bos: str = ""
) -> Tokenizer:
    """Return byte-level BPE as in Llama 3 and Qwen; a `bos` is written by the post-processor."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC() if nfc else None
    core.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(SPLIT), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=sorted(pre.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.add_special_tokens(list(special))
    core.add_tokens(list(added))
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return core


def sentencepiece(
    special: Sequence[str], added: Sequence[str] = (), *, space: str = "", rstrip: bool = False
) -> Tokenizer:
    """Return BPE over "▁" with byte fallback.

    `space` says where a space is put before a text: nowhere as in Gemma (""), before the first
    word ("first"), or after each special token as older Llama and Mistral files do ("always").
    With `rstrip` special tokens swallow the white space behind them, as in Phi-3.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre.Metaspace(prepend_scheme="always")
    # As there, no token joins a line break with letters.
    words = [word for text in TEXTS for word in text.split()]
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    names = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *learned["vocab"]]
    core = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(dict.fromkeys(names))},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    if space == "always":
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    elif space == "first":
        core.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    else:
        core.normalizer = normalizers.Replace(" ", "▁")
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if space:
        steps.append(decoders.Strip(" ", 1, 0))
    core.decoder = decoders.Sequence(steps)
    core.add_special_tokens([AddedToken(t, rstrip=rstrip, normalized=False) for t in special])
    core.add_tokens([AddedToken(token, normalized=False) for token in added])
    return core


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a family."""
    family = {**FAMILIES, **REFUSED}[name]
    return PreTrainedTokenizerFast(
        tokenizer_object=family.build(family.controls, family.added),
        bos_token=family.bos,
        eos_token=family.eos or family.end,
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


LLAMA_3 = """{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- if messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}
{{- 'Today Date: ' + (date_string if date_string is defined else TODAY) + '\n\n' }}
{{- ns.system + '<|eot_id|>' }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
    {{- m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""
CHATML = """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""
QWEN_3 = """{%- for m in messages %}
    {%- set text = m.content %}
    {%- if m.role == 'assistant' and '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\n' }}
    {%- if m.role == 'assistant' and loop.last %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
    {{- text + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
THINKS = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n' }}
{%- endif %}"""
CHANNELS = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + ('<|final|>' if m.role == 'assistant' else '') }}
    {{- '\n' + m.content + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant' }}
{%- endif %}"""
MISTRAL = """{{- bos_token }}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant.') }}
    {%- endif %}
    {{- '[INST]SPACE' + m.content + '[/INST]' if m.role == 'user' }}
    {{- 'SPACE' + m.content + eos_token if m.role == 'assistant' }}
{%- endfor %}"""
GEMMA = """{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}
        {{- raise_exception('System role not supported') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
    {{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}"""
PHI_3 = """{%- for m in messages %}
    {{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}
{%- endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}"""
OLMO_2 = """{{- bos_token }}
{%- for m in messages %}
    {{- '<|' + m.role + '|>\n' + m.content }}
    {{- eos_token if m.role == 'assistant' else '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}"""
HEADERS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
)  # fmt: skip
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _with_bos(special: Sequence[str], added: Sequence[str]) -> Tokenizer:
    return byte_level(special, added, bos=special[0])


def _with_nfc(special: Sequence[str], added: Sequence[str]) -> Tokenizer:
    return byte_level(special, added, nfc=True)


def _first_space(special: Sequence[str], added: Sequence[str]) -> Tokenizer:
    return sentencepiece(special, added, space="first")


def _spaces(special: Sequence[str], added: Sequence[str]) -> Tokenizer:
    return sentencepiece(special, added, space="always")


def _swallowing(special: Sequence[str], added: Sequence[str]) -> Tokenizer:
    return sentencepiece(special, added, space="always", rstrip=True)


FAMILIES: dict[str, Family] = {
    # The post-processor writes BOS as well: the published script's prompts got two.
    "llama-3.1": Family(
        LLAMA_3.replace("TODAY", "'26 Jul 2024'"), HEADERS, "<|eot_id|>", _with_bos, HEADERS[0]
    ),
    "llama-3.2": Family(
        LLAMA_3.replace("TODAY", "strftime_now('%d %b %Y')"),
        HEADERS, "<|eot_id|>", _with_bos, HEADERS[0],
    ),
    "qwen-2.5": Family(CHATML, IM, "<|im_end|>", _with_nfc),
    "qwen-3": Family(QWEN_3, IM, "<|im_end|>", _with_nfc, added=("<think>", "</think>")),
    "smollm-2": Family(
        CHATML, IM, "<|im_end|>", byte_level, bos="<|im_start|>", bos_count=3
    ),
    "olmo-2": Family(
        OLMO_2, IM[:1], IM[0], byte_level, bos=IM[0], bos_count=2
    ),
    "mistral-0.3": Family(
        MISTRAL.replace("SPACE", " "), ("<s>", "</s>", "[INST]", "[/INST]"), "</s>",
        _first_space, "<s>",
    ),
    # [INST] is ordinary text.
    "mistral-0.2": Family(
        MISTRAL.replace("SPACE", " "), ("<s>", "</s>"), "</s>", _spaces, "<s>"
    ),
    # The first word of a reply gets other tokens than at the start of a text.
    "spaced": Family(
        MISTRAL.replace("SPACE", " "), ("<s>", "</s>", "[INST]", "[/INST]"), "</s>",
        _spaces, "<s>",
    ),
    "mistral-nemo": Family(
        MISTRAL.replace("SPACE", ""), ("<s>", "</s>", "[INST]", "[/INST]"), "</s>",
        byte_level, "<s>",
    ),
    "gemma": Family(
        GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>",
        sentencepiece, "<bos>", "<eos>", added=("\n\n", "\n\n\n", "▁▁", "<table>"),
    ),
    "phi-3": Family(
        PHI_3, ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|end|>",
        _swallowing, "<s>", "<|endoftext|>", bos_count=0,
    ),
}  # fmt: skip
REFUSED: dict[str, Family] = {
    # The generation prompt opens a thought that no reply of the history has.
    "deepseek-r1": Family(THINKS, IM, "<|im_end|>", byte_level, added=("<think>", "</think>")),
    # The history has control tokens before a reply that the generation prompt lacks.
    "gpt-oss": Family(CHANNELS, (*IM, "<|final|>"), "<|im_end|>", byte_level),
}
