"""How a model in training does on the val split: loss a token, and accuracy on choice questions."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ecg_llm import local
from ecg_llm.config import Adapter
from ecg_llm.prompt import ChoiceReply, choice_reply
from ecg_llm.records import LETTERS, Question
from ecg_llm.train import batches, template
from ecg_llm.train.batches import Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ecg_llm.train.trainer import Look


def look(
    tokenizer: "PreTrainedTokenizerBase",
    items: Sequence[Item],
    choices: Sequence[Question],
    settings: Adapter,
    seed: int,
    batch: int = 8,
) -> "Look":
    """Return what measures a model on val, `batch` examples at once.

    Choice accuracy is measured on at most `eval_choices` questions, a seeded sample.
    """
    asked = [question for question in choices if question.answer]
    chosen = random.Random(seed).sample(asked, min(settings.eval_choices, len(asked)))

    def found(model: Any) -> dict[str, float]:
        measured = {"eval_loss": loss(model, tokenizer.pad_token_id, items, batch)}
        if chosen:
            around = local.LocalModel.around(model, tokenizer, batch=batch)
            measured["eval_choice"] = choice_accuracy(around, chosen, settings.mix.choice_reply)
        return measured

    return found


def loss(model: "PreTrainedModel", pad: int, items: Sequence[Item], batch: int = 8) -> float:
    """Return the mean loss of the tokens that carry loss, in nats; without dropout in eval mode.

    A mean over tokens, where transformers' Trainer averages the means of batches.
    """
    import torch

    order = sorted(items, key=lambda item: len(item["input_ids"]))
    collator = batches.Collator(pad, False, local.takes(model, "logits_to_keep"))
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(order), batch):
            inputs = collator(order[start : start + batch])
            labels = inputs.pop("labels").to(model.device)
            moved = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in inputs.items()}
            total += float(batches.loss(model(**moved), labels, 1))
            count += int((labels != batches.IGNORED).sum())
    return total / max(count, 1)


def choice_accuracy(
    model: local.LocalModel, questions: Sequence[Question], form: ChoiceReply = "sentence"
) -> float:
    """Return the share of choice questions whose right reply is likelier than every other."""
    found = model.likelihoods(
        [template.example(question)["prompt"] for question in questions],
        [
            [
                choice_reply(letter, form, option)
                for letter, option in zip(LETTERS, question.options, strict=False)
            ]
            for question in questions
        ],
    )
    right = 0
    for question, likelihoods in zip(questions, found, strict=True):
        scores = [one.logprob for one in likelihoods]
        best = LETTERS[scores.index(max(scores))] if scores else ""
        # 16-bit logits tie now and then, and the first of equals would favour A.
        right += best == question.answer and scores.count(max(scores)) == 1
    return right / len(questions)
