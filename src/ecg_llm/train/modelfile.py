"""A Modelfile for Ollama whose template writes what the model's own chat template writes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm.contracts import Message, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = 8192
"""Tokens that Ollama is told to keep room for, at most: the memory of longer ones is large."""
SYSTEM, USER, ASSISTANT, AGAIN = "zqsystemzq", "zquserzq", "zqassistantzq", "zqagainzq"
"""Contents by which a rendered chat is taken apart."""
PLAIN: Sequence[Sequence[Message]] = (
    [{"role": "user", "content": "What is a normal PR interval?"}],
    [
        {"role": "user", "content": "What is a normal PR interval?"},
        {"role": "assistant", "content": "120 to 200 ms."},
        {"role": "user", "content": "And a long one?\n\nSay why."},
        {"role": "assistant", "content": "More than 200 ms:\nfirst-degree AV block."},
        {"role": "user", "content": "Is {{ .Content }} \"quoted\" \\ 'text'?"},
    ],
)
"""Chats that a derived template must write as the model's own does."""


class Layout(NamedTuple):
    """What a chat template writes between the contents of the messages, without BOS."""

    first: str
    """Before the first user's content."""
    system: tuple[str, str] | None
    """Instead of `first`: before the system's content, and after it. None: not supported."""
    reply: str
    """From a user's content to the assistant's."""
    after: str
    """From an assistant's content to the user's."""
    generate: str
    """After the last user's content."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text that the Modelfile's template makes of a chat."""
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        start = self.first
        if system and self.system:
            start = self.system[0] + system + self.system[1]
        text, begun, asked = "", False, False
        for message in messages:
            if message["role"] == "user":
                text += (self.after if begun else start) + message["content"]
                begun = asked = True
            elif message["role"] == "assistant":
                text += self.reply + message["content"]
                asked = False
        return text + (self.generate if asked else "")


def layout(tokenizer: "PreTrainedTokenizerBase") -> Layout:
    """Return the layout of a tokenizer's chat template, after checking that it writes the same.

    The template is rendered with known contents and cut at them. BOS is left out, since Ollama
    adds it.

    Raises:
        UsageError: the template does more than to put text between the contents.
    """
    try:
        one = _cut(_rendered(tokenizer, [_user(USER)]), USER)
        chat = [_user(USER), Message(role="assistant", content=ASSISTANT), _user(AGAIN)]
        three = _cut(_rendered(tokenizer, chat), USER, ASSISTANT, AGAIN)
    except ValueError as error:
        raise UsageError(_refusal("changes the contents of messages")) from error
    made = Layout(one[0], None, three[1], three[2], one[1])
    for messages in PLAIN:
        if made.render(messages) != _rendered(tokenizer, messages):
            turns = sum(message["role"] == "user" for message in messages)
            raise UsageError(_refusal(f"writes a chat of {turns} turns differently each time"))
    return made._replace(system=_system(tokenizer, made))


def modelfile(
    made: Layout, stops: Sequence[str], context: int, weights: str = "./", comment: str = ""
) -> str:
    """Return the text of a Modelfile: greedy decoding, as every arm of the study is asked.

    Args:
        made: The layout of the chat template.
        stops: The texts of the tokens that end a reply.
        context: Tokens of the model's context.
        weights: What FROM names.
        comment: What stands above it.
    """
    parameters: Mapping[str, object] = {
        "temperature": 0,
        # Ollama's own default punishes words that the prompt holds: other replies than trained.
        "repeat_penalty": 1.0,
        "num_ctx": min(context, CONTEXT),
    }
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"FROM {weights}", f'TEMPLATE """{go_template(made)}"""']
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


def go_template(made: Layout) -> str:
    """Return the layout as a template of Go's text/template, over Ollama's .Messages and .System.

    Raises:
        UsageError: the text cannot stand in a Modelfile.
    """
    start = _literal(made.first)
    if made.system:
        before, after = map(_literal, made.system)
        start = f"{{{{ if $.System }}}}{before}{{{{ $.System }}}}{after}{{{{ else }}}}{start}"
        start += "{{ end }}"
    return (
        "{{ $begun := false }}{{ $asked := false }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}'
        f"{{{{ if $begun }}}}{_literal(made.after)}{{{{ else }}}}{start}{{{{ end }}}}"
        "{{ .Content }}{{ $begun = true }}{{ $asked = true }}"
        '{{ else if eq .Role "assistant" }}'
        f"{_literal(made.reply)}{{{{ .Content }}}}{{{{ $asked = false }}}}"
        "{{ end }}{{ end }}"
        f"{{{{ if $asked }}}}{_literal(made.generate)}{{{{ end }}}}"
    )


def _system(tokenizer: "PreTrainedTokenizerBase", made: Layout) -> tuple[str, str] | None:
    """Return what stands around a system message, or None where the template takes none."""
    from jinja2 import TemplateError

    system = Message(role="system", content=SYSTEM)
    try:
        parts = _cut(_rendered(tokenizer, [system, _user(USER)]), SYSTEM, USER)
        found = made._replace(system=(parts[0], parts[1]))
        same = all(
            found.render([system, *messages]) == _rendered(tokenizer, [system, *messages])
            for messages in PLAIN
        )
    except (ValueError, TemplateError):
        return None
    return found.system if same else None


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _rendered(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> str:
    text = str(
        tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    )
    return text.removeprefix(tokenizer.bos_token or "")


def _cut(text: str, *contents: str) -> list[str]:
    """Return the text around these contents; ValueError where one is not there exactly once."""
    parts = []
    for content in contents:
        if text.count(content) != 1:
            raise ValueError(content)
        before, _, text = text.partition(content)
        parts.append(before)
    return [*parts, text]


def _literal(text: str) -> str:
    if '"""' in text:
        raise UsageError(_refusal("holds three quotation marks"))
    return text.replace("{{", '{{ "{{" }}')


def _refusal(why: str) -> str:
    return (
        f"No Ollama template can be derived, since the model's chat template {why}; export with "
        f"--form merged and serve it with a program that reads the model's own template."
    )
