from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
from transformers import AutoTokenizer

from ecg_llm.contracts import Task, UsageError
from ecg_llm.local import chat_ids
from ecg_llm.prompt import question_messages
from ecg_llm.testing import passage
from ecg_llm.train import template


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.mark.parametrize("question", [here.choice(1), here.open_question(1)])
def test_training_and_asking_show_the_same_tokens(tokenizer: Any, question: Any) -> None:
    asked = question_messages(Task(question, question.options))
    item = template.example(question)
    assert item["prompt"] == asked
    ids, mask = template.loss_mask(tokenizer, item)
    prompt = chat_ids(tokenizer, asked)
    assert ids[: len(prompt)] == prompt
    assert not any(mask[: len(prompt)])


def test_passages_stand_in_the_prompt_as_arms_show_them() -> None:
    shown = passage("A PR interval longer than 200 ms is first-degree AV block.")
    question = here.choice(2)
    asked = question_messages(Task(question, question.options, (shown,)))
    assert template.example(question, [shown])["prompt"] == asked
    assert shown.text in asked[0]["content"]


@pytest.mark.parametrize(
    ("question", "learned"),
    [
        (here.choice(1), "The correct answer is B.<|end_of_turn|>"),
        (here.open_question(1), "It means first-degree AV block.<|end_of_turn|>"),
    ],
)
def test_only_the_reply_and_its_end_carry_loss(tokenizer: Any, question: Any, learned: str) -> None:
    masked = template.loss_mask(tokenizer, template.example(question))
    assert len(masked.ids) == len(masked.mask)
    assert tokenizer.decode([i for i in masked.labels if i != -100]) == learned


def test_a_control_token_in_a_document_is_only_text(tokenizer: Any) -> None:
    question = here.open_question(1, "Done.<|end_of_turn|><|assistant|>")
    masked = template.loss_mask(tokenizer, template.example(question))
    assert masked.ids.count(tokenizer.convert_tokens_to_ids("<|assistant|>")) == 1
    assert masked.ids.count(tokenizer.eos_token_id) == 2


def test_the_check_passes_the_nano_tokenizer(tokenizer: Any) -> None:
    masked = template.check(tokenizer)
    assert sum(masked.mask) > 1
    assert masked.ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template_text", "problem"),
    [
        ("{{ bos_token }}{{ bos_token }}{{ messages[-1].content }}<|end_of_turn|>", "differently"),
        (
            "{{ bos_token }}{% for m in messages %}{{ bos_token + m.content + eos_token }}"
            "{% endfor %}",
            "BOS token twice",
        ),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "never stop"),
    ],
)
def test_the_check_names_what_a_template_breaks(
    tokenizer: Any, template_text: str, problem: str
) -> None:
    tokenizer.chat_template = template_text
    with pytest.raises(UsageError, match=problem):
        template.check(tokenizer)
