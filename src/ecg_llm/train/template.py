"""Questions as training examples, and which of their tokens carry loss."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ecg_llm import local
from ecg_llm.contracts import Message, Task, UsageError
from ecg_llm.prompt import choice_reply, question_messages, target_reply
from ecg_llm.records import Passage, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Example(TypedDict):
    """A chat to learn from, in TRL's prompt-completion form."""

    prompt: list[Message]
    completion: list[Message]


class Masked(NamedTuple):
    """The tokens of an example; mask is 1 where a token carries loss."""

    ids: list[int]
    mask: list[int]

    @property
    def labels(self) -> list[int]:
        """The tokens that carry loss, -100 for the others."""
        return [token if lost else -100 for token, lost in zip(*self, strict=True)]


def example(question: Question, passages: Sequence[Passage] = (), reply: str = "") -> Example:
    """Return the prompt that arms are asked with, byte for byte, and the reply to learn.

    An empty `reply` stands for the question's own in its default form.
    """
    task = Task(question, question.options, tuple(passages))
    return {
        "prompt": question_messages(task),
        "completion": [{"role": "assistant", "content": reply or target_reply(question)}],
    }


def loss_mask(tokenizer: "PreTrainedTokenizerBase", item: Example) -> Masked:
    """Return the tokens of an example; the reply and its end token carry loss, nothing else.

    Raises:
        UsageError: the chat template does not simply add the reply to the prompt.
    """
    (reply,) = item["completion"]
    turn = local.turn(tokenizer, item["prompt"], reply["content"])
    learned = [*turn.reply, *turn.end]
    return Masked(turn.prompt + learned, [0] * len(turn.prompt) + [1] * len(learned))


def check(tokenizer: "PreTrainedTokenizerBase", ends: Sequence[int] = ()) -> Masked:
    """Return a masked example after checking what this tokenizer's chat template makes of it.

    `ends` are the tokens at which generation stops besides the tokenizer's own end token.

    Raises:
        UsageError: two BOS tokens, a template that does not simply add the reply to the prompt,
            or a reply that no end token closes, so that the model would never learn to stop.
    """
    chat: Example = {
        "prompt": [{"role": "user", "content": "What is a normal PR interval?"}],
        "completion": [{"role": "assistant", "content": choice_reply("A")}],
    }
    masked = loss_mask(tokenizer, chat)
    bos = tokenizer.bos_token_id
    # Some models begin each turn with their BOS token: only two in a row are one too many.
    if bos is not None and (bos, bos) in itertools.pairwise(masked.ids):
        raise UsageError("The model's chat template writes the BOS token twice; correct it.")
    stops = {tokenizer.eos_token_id, *ends} - {None}
    reply = [token for token, lost in zip(*masked, strict=True) if lost]
    if reply[-1] not in stops:
        raise UsageError(
            "The model's chat template closes a reply with no token that ends generation, so a "
            "model trained with it would never stop; add the EOS token to the template's assistant "
            "turn, or the token it closes with to eos_token_id in generation_config.json."
        )
    return masked
