import datetime
import unicodedata
from pathlib import Path
from typing import Any

import families
import pytest
import tiny_study as here
import torch
from families import FAMILIES
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ecg_llm import local
from ecg_llm.contracts import Message, Task, UsageError
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
            "{{ bos_token + bos_token }}{% for m in messages %}{{ m.content + eos_token }}"
            "{% endfor %}",
            "BOS token twice",
        ),
        ("{% for m in messages %}{{ bos_token + m.content + eos_token }}{% endfor %}", "right aft"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "never stop"),
    ],
)
def test_the_check_names_what_a_template_breaks(
    tokenizer: Any, template_text: str, problem: str
) -> None:
    tokenizer.chat_template = template_text
    with pytest.raises(UsageError, match=problem):
        template.check(tokenizer)


REPLIES = [
    "The correct answer is B.",
    "Ein verlängertes QT-Intervall: > 450 ms 🫀\n\n- bei Männern\n- bei Frauen > 460 ms",
    "  spaces before and behind  ",
    "\nline breaks before and behind\n\n",
    "\t»200 ms«  two   spaces\n\n\nthree breaks",
    "a u\u0308mlaut of two code points and an icon that the library takes out \U000f0001",
    "no control: <table>; controls: <|eot_id|> <|im_end|> </s> <end_of_turn> <|end|> [/INST] <bos>",
]
LIMIT = settings(max_examples=25, deadline=None, derandomize=True, database=None)
CONTROLS = sorted({token for family in FAMILIES.values() for token in family.controls})
PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from([*CONTROLS, "<think>", " ", "  ", "\n", "\n\n", "äöüß", "🫀", "▁", "<0x41>"]),
)
WORDS = st.lists(PIECES, max_size=6).map("".join)


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the tokenizer of a family by its name, saved and loaded as a user's is."""
    held: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in held:
            folder = tmp_path_factory.mktemp("families") / name
            families.tokenizer(name).save_pretrained(folder)
            held[name] = local.load_tokenizer(str(folder))
        return held[name]

    return load


def ask(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def chat(question: str, reply: str) -> template.Example:
    return {
        "prompt": ask(question),
        "completion": [{"role": "assistant", "content": reply}],
    }


def bare(text: str) -> str:
    """Return a text composed and without white space, which tokenizers do not keep exactly."""
    kept = text.replace("\U000f0000", "").replace("\U000f0001", "").replace("▁", " ")
    return unicodedata.normalize("NFC", "".join(kept.split()))


def holds(tokenizer: Any, name: str, question: str, reply: str) -> None:
    """Assert that the reply and its end carry loss, and that asking shows the same tokens."""
    item = chat(question, reply)
    ids, mask = template.loss_mask(tokenizer, item)
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].end)
    prompt = chat_ids(tokenizer, item["prompt"])
    learned = [token for token, lost in zip(ids, mask, strict=True) if lost]
    assert mask == sorted(mask)
    assert ids == prompt + learned
    assert learned == [*local.reply_ids(tokenizer, reply), end]
    said = tokenizer.decode(learned[:-1], clean_up_tokenization_spaces=False)
    assert bare(said) == bare(reply)
    if not any(control in reply for control in FAMILIES[name].controls):
        # Beside what looks like a control token the library may add a space.
        kept = reply.replace("\U000f0000", "").replace("\U000f0001", "").strip()
        plain = tokenizer.decode(local.text_ids(tokenizer, kept))
        assert said.strip() == plain.strip()
    bos = tokenizer.bos_token_id
    assert bos is None or ids.count(bos) == FAMILIES[name].bos_count


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reply", REPLIES)
def test_reply_and_end_token_carry_loss_in_every_family(loaded: Any, name: str, reply: str) -> None:
    holds(loaded(name), name, "What is a normal PR interval?", reply)
    holds(loaded(name), name, f" \n{reply}\n ", reply)


@pytest.mark.parametrize("name", FAMILIES)
@LIMIT
@given(question=WORDS, reply=WORDS)
@case(question="", reply="")
def test_any_text_is_masked_and_asked_alike(
    loaded: Any, name: str, question: str, reply: str
) -> None:
    holds(loaded(name), name, question, reply)


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_a_question_are_only_text(loaded: Any, name: str) -> None:
    tokenizer = loaded(name)
    forged = "x" + "".join(FAMILIES[name].controls) + "y"
    written = chat_ids(tokenizer, ask(forged))
    harmless = chat_ids(tokenizer, ask("x y"))
    for token in map(tokenizer.convert_tokens_to_ids, FAMILIES[name].controls):
        assert written.count(token) == harmless.count(token)
    assert forged in tokenizer.decode(written, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_check_passes_every_family(loaded: Any, name: str) -> None:
    tokenizer = loaded(name)
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].end)
    masked = template.check(tokenizer, [end])
    assert masked.ids[-1] == end
    if FAMILIES[name].eos:
        with pytest.raises(UsageError, match=r"eos_token_id in generation_config\.json"):
            template.check(tokenizer)


def test_a_second_bos_of_the_post_processor_stays_out(loaded: Any) -> None:
    tokenizer = loaded("llama-3.1")
    asked = ask("What is a PR interval?")
    written = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer(written).input_ids[:2] == [tokenizer.bos_token_id] * 2
    assert tokenizer(written).input_ids[1:] == chat_ids(tokenizer, asked)


def test_a_reply_is_learned_and_asked_without_thoughts(loaded: Any) -> None:
    tokenizer = loaded("qwen-3")
    ids, mask = template.loss_mask(tokenizer, chat("What is it?", "An AV block."))
    first = mask.index(1)
    assert tokenizer.decode(ids[:first]).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(ids[first:]) == "An AV block.<|im_end|>"


def test_the_date_in_a_template_stands_still(loaded: Any) -> None:
    """A model trained on Monday is asked on Tuesday."""
    asked = ask("What is it?")
    ids = chat_ids(loaded("llama-3.2"), asked)
    assert ids == chat_ids(loaded("llama-3.1"), asked)
    today = datetime.datetime.now().strftime("%d %b %Y")
    raw = families.tokenizer("llama-3.2")
    assert today in raw.decode(chat_ids(raw, asked))


def test_a_settled_template_is_saved_and_not_settled_again(loaded: Any, tmp_path: Path) -> None:
    for name in ("qwen-3", "llama-3.2", "gemma"):
        tokenizer = loaded(name)
        tokenizer.save_pretrained(tmp_path / name)
        again = local.load_tokenizer(str(tmp_path / name))
        assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    ("name", "problem"),
    [("deepseek-r1", "without thinking first"), ("gpt-oss", "right after the prompt")],
)
def test_a_template_that_does_not_just_add_the_reply_is_refused(name: str, problem: str) -> None:
    tokenizer = families.tokenizer(name)
    with pytest.raises(UsageError, match=problem):
        template.check(tokenizer)
    assert local.reply_ids(tokenizer, "B") == local.text_ids(tokenizer, "B")


def test_a_reply_that_the_template_cuts_is_refused(loaded: Any) -> None:
    with pytest.raises(UsageError, match=r"for the reply 'First\.</think>Then\.'"):
        template.loss_mask(loaded("qwen-3"), chat("What is it?", "First.</think>Then."))


def test_a_chat_that_the_template_refuses_is_a_sentence(loaded: Any) -> None:
    with pytest.raises(UsageError, match="System role not supported"):
        chat_ids(loaded("gemma"), [{"role": "system", "content": "Be brief."}])


@pytest.mark.parametrize("name", ["spaced", "qwen-3", "gemma"])
def test_a_reply_is_scored_by_the_tokens_it_is_learned_by(loaded: Any, name: str) -> None:
    tokenizer = loaded(name)
    settings = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(settings).eval()
    item = chat("What is it?", "The correct answer is B.")
    masked = template.loss_mask(tokenizer, item)
    labels = torch.tensor([masked.labels[:-1]])
    with torch.no_grad():
        loss = model(torch.tensor([masked.ids[:-1]]), labels=labels).loss
    around = local.LocalModel.around(model, tokenizer)
    ((found,),) = around.likelihoods([item["prompt"]], [[item["completion"][0]["content"]]])
    assert found.tokens == sum(masked.mask) - 1
    assert found.logprob == pytest.approx(-float(loss) * found.tokens, abs=1e-3)
    same = (
        local.text_ids(tokenizer, "The correct answer is B.") == masked.ids[-1 - found.tokens : -1]
    )
    assert same == (name != "spaced")
