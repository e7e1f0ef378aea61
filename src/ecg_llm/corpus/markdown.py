"""Markdown files, with the front matter, attributes and HTML in them, to plain Markdown."""

import html
import re

import yaml

from ecg_llm.corpus.webpage import BLOCKS, html_to_markdown

INLINE = frozenset(
    re.findall(
        r"\S+",
        "a abbr b bdi body cite code col colgroup dfn em font head html i ins kbd label link mark "
        "meta q samp small span strong time title tt u var wbr",
    )
)
"""Tags that go without a trace."""
FRONT = re.compile(r"---[ \t]*\r?\n(.{0,20000}?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|$)", re.DOTALL)
COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
IMAGE = re.compile(
    r"!\[((?:[^\[\]]|\[[^\[\]]*\])*)\]"
    r"\(\s{0,9}(?:<[^<>\n]*>|(?:[^()\s<]|\([^()\s]*\))*)(?:\s{1,9}\"([^\"]*)\")?\s{0,9}\)"
)
LINK = re.compile(
    r"(?<!\\)\[((?:\\.|[^\[\]\\])*)\]"
    r"\((<[^<>\n]*>|(?:[^()\s<]|\([^()\s]*\))*)(?:\s{1,9}\"[^\"]*\")?\s{0,9}\)"
)
REFERENCED = re.compile(r"\[([^\[\]\n]+)\]\[\w*\]")
TARGET = re.compile(
    r"^ {0,3}\[(?!\^)[^\]\n]+\]:[ \t]+\S+(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\)))?[ \t]*$"
    r"|^\^[ \t]*$",
    re.MULTILINE,
)
NOTE = re.compile(r"\[\^([\w-]{1,40})\](:?)")
ATTRIBUTES = re.compile(r"\{[:%][^{}\n]*\}")
RUN_IN = re.compile(r"<span data-type=\"title\">([^<>]*)</span>\s{0,9}")
ISLAND = re.compile(
    r"<(table|math|dl|script|style|svg)\b[^<>]*>(?:(?!<\1\b).)*?</\1\s*>"
    r"|\d?<(su[bp])\b[^<>]*>[^<>]*</\2\s*>\d?",
    re.DOTALL | re.IGNORECASE,
)
"""Elements that a reader of HTML must read; raised and lowered ones with the digits beside them."""
TAG = re.compile(r"</?([A-Za-z][\w:-]*)(?:\s[^<>]*|/)?>")


def plain_markdown(text: str) -> tuple[str, str, str]:
    """Return (Markdown, title, licence) of a Markdown file: no links, attributes or tags left."""
    text = text.replace("\r\n", "\n")
    front = FRONT.match(text)
    fields = _fields(front[1]) if front else None
    if front and fields is not None:
        text = text[front.end() :]
    text = COMMENT.sub("", text)
    text = IMAGE.sub(_figure, text)
    text = LINK.sub(_link, text)
    text = REFERENCED.sub(r"\1", text)
    text = TARGET.sub("", text)
    text = NOTE.sub(lambda match: f"[{match[1]}]", text)
    text = ATTRIBUTES.sub("", text)
    text = RUN_IN.sub(r"\1\n\n", text)
    text = ISLAND.sub(_island, text)
    text = TAG.sub(_tag, text)
    text = re.sub(r"^(\S.*)\n=+[ \t]*$", r"\n# \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w.*)\n-{3,}[ \t]*$", r"\n## \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(#{1,6}[ \t].*)$", r"\n\1\n", text, flags=re.MULTILINE)
    text = re.sub(r"\n(?:[ \t]*\n){2,}", "\n\n", html.unescape(text)).strip()
    fields = fields or {}
    licence = fields.get("license") or fields.get("licence") or ""
    return text, fields.get("title", ""), licence


def _fields(front: str) -> dict[str, str] | None:
    """Return the front matter's plain fields, or None if it is no front matter."""
    try:
        fields = yaml.load(front, yaml.BaseLoader)  # makes nothing but strings, lists, dicts
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    return {str(key): value for key, value in fields.items() if isinstance(value, str)}


def _figure(match: re.Match[str]) -> str:
    words = " ".join(part for part in (match[1], match[2]) if part)
    return f"\n\nFigure: {words}\n\n" if words else ""


def _link(match: re.Match[str]) -> str:
    words = re.sub(r"\\(.)", r"\1", match[1])
    if words == "[link]":  # OpenStax: the reader sees the number of what is linked
        target = match[2].lower()
        words = "Figure" if "fig" in target else "Table" if "tbl" in target else ""
        following = match.string[match.end() : match.end() + 3].lstrip("*")
        return words + " " * (words != "" and following[:1].isalnum())
    return words


def _island(match: re.Match[str]) -> str:
    text = html_to_markdown(match[0])[0]
    text += " " * bool(re.search(r"\s</\w+\s*>$", match[0]))
    return f"\n\n{text}\n\n" if (match[1] or "").lower() in ("table", "dl") else text


def _tag(match: re.Match[str]) -> str:
    name = match[1].lower()
    if name == "li":
        return "\n" if match[0].startswith("</") else "\n- "
    if name == "img":
        words = re.search(r"\balt=\"([^\"]+)\"", match[0])
        return f"\n\nFigure: {words[1]}\n\n" if words else ""
    if name == "br":
        return "\n"
    return "\n\n" if name in BLOCKS else "" if name in INLINE else match[0]
