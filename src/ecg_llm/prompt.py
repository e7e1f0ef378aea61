"""Prompt files rendered strictly, and the one builder of the prompt that every arm answers.

A prompt file holds `{{name}}` places. A missing or a surplus value is an error, and values are
never rendered again: document text is data. Texts are quoted line by line, or stand between lines
like <<<TEXT and TEXT>>> of the prompt file, or take no more than one line, so that nothing in a
text can pass for a part of the prompt.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Literal

from ecg_llm.contracts import NO_ANSWER, Message, Task
from ecg_llm.records import LETTERS, Passage, Question, digest

PLACE = re.compile(r"\{\{(\w+)\}\}")
FENCE = re.compile(r"^\w+>>>$", re.MULTILINE)
"""The line of a prompt file that ends a text given as data."""
MARKERS = re.compile(r"<{3,}|>{3,}")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
CHAT_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?(?:s|think|start_of_turn|end_of_turn)>|\[/?(?:INST|SYSTEM_PROMPT)\]"
)
"""Marks with which chat templates end and begin turns."""
NO_PASSAGE = "(No passage of the literature was found.)"
"""What stands in the place of the passages where none were found."""
ChoiceReply = Literal["sentence", "letter", "option"]
"""Forms of a reply to a choice question."""


@cache
def template(name: str) -> str:
    """Return the text of prompts/<name>.md."""
    return resources.files("ecg_llm").joinpath("prompts", f"{name}.md").read_text("utf-8").strip()


def render(name: str, values: Mapping[str, str]) -> str:
    """Return prompts/<name>.md with every {{place}} replaced by its value.

    Raises:
        ValueError: a place has no value, or a value has no place.
    """
    text = template(name)
    places = set(PLACE.findall(text))
    if places != set(values):
        missing = ", ".join(sorted(places - set(values))) or "none"
        surplus = ", ".join(sorted(set(values) - places)) or "none"
        raise ValueError(f"prompt {name}: missing values: {missing}; surplus values: {surplus}")
    if FENCE.search(text):  # its markers must stay the only ones
        values = {
            name: MARKERS.sub(lambda run: run.group()[:2], value) for name, value in values.items()
        }
    return PLACE.sub(lambda place: values[place.group(1)], text)


def version(*names: str) -> str:
    """Return the digest of these prompt files: what they say decides what comes back."""
    return digest([template(name) for name in names])


def without_fence(reply: str) -> str:
    """Return a reply without the one code fence that may stand around it."""
    text = reply.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.partition("\n")[2].removesuffix("```")
    return text


def prompt_sha(messages: Sequence[Message]) -> str:
    """Return the digest of a prompt as it is sent."""
    return digest([[message["role"], message["content"]] for message in messages])


def question_messages(task: Task) -> list[Message]:
    """Return the chat that asks this question: the same for every arm and for training.

    One user message, since not every chat template takes a system message. Passages, where
    there are any, carry the citation keys [1], [2] ... in the order given.
    """
    question = task.question
    parts = []
    if task.passages or task.searched:
        shown = [passage_text(i, p) for i, p in enumerate(task.passages, start=1)]
        passages = "\n\n".join(shown) or NO_PASSAGE
        parts.append(render("passages", {"passages": passages, "no_answer": NO_ANSWER}))
    if question.context:
        parts.append(context_text(question.context))
    asked = {"question": one_line(question.question)}
    if question.kind == "choice":
        parts.append(render("choice", asked | {"options": lettered(task.options)}))
    else:
        parts.append(render("open", asked))
    return [{"role": "user", "content": "\n\n".join(parts)}]


def passage_text(number: int, passage: Passage) -> str:
    """Return a passage as prompts show it, quoted under its citation key."""
    heading = f"{passage.section}\n" if passage.section else ""
    return f"[{number}]\n{quoted(heading + passage.text)}"


def context_text(context: str) -> str:
    """Return the text that belongs to a question as prompts show it."""
    return render("context", {"context": quoted(context)})


def lettered(options: Sequence[str]) -> str:
    """Return options as prompts show them: "A) ..." and so on, each on a line of its own."""
    return "\n".join(
        f"{letter}) {one_line(option)}" for letter, option in zip(LETTERS, options, strict=False)
    )


def one_line(text: str) -> str:
    """Return a text on one line: no part of it can pass for a line of the prompt."""
    return " ".join(harmless(text).split())


def quoted(text: str) -> str:
    """Return a text with "> " before every line: none of them can pass for a line of the prompt."""
    return "\n".join(f"> {line}".rstrip() for line in harmless(text).splitlines())


def harmless(text: str) -> str:
    """Return a text without control characters, its chat control tokens broken by a space.

    A server may read such tokens inside a message as the end of a turn; models in this process
    are protected by their tokenizer besides.
    """
    return CHAT_TOKEN.sub(lambda token: f"{token[0][0]} {token[0][1:]}", CONTROL.sub("", text))


def choice_reply(letter: str, form: ChoiceReply = "sentence", option: str = "") -> str:
    """Return the reply that answers a choice question with this letter.

    sentence: "The correct answer is B." (the paper's training target); letter: "B"; option: the
    sentence with the text of `option`, under the label that the prompt shows it under.
    """
    if form == "letter":
        return letter
    if form == "option":
        said = f"The correct answer is {letter}) {one_line(option)}"
        return said if said.endswith((".", "!", "?")) else f"{said}."
    return f"The correct answer is {letter}."


def target_reply(question: Question, form: ChoiceReply = "sentence") -> str:
    """Return the reply that a model is to learn: choice_reply in this form, or the reference."""
    if question.kind == "open":
        return question.reference
    option = dict(zip(LETTERS, question.options, strict=False)).get(question.answer, "")
    return choice_reply(question.answer, form, option)


def rotated(options: Sequence[str], permutation: int) -> tuple[str, ...]:
    """Return the options rotated left by this many places."""
    shift = permutation % len(options) if options else 0
    return (*options[shift:], *options[:shift])


def original_letter(letter: str, permutation: int, options: int) -> str:
    """Return the question's own letter of the option shown under `letter` after a rotation."""
    return LETTERS[(LETTERS.index(letter) + permutation) % options]
