"""Plain text from outside the corpus, mixed into continued pretraining against forgetting."""

import json
from pathlib import Path

from ecg_llm.contracts import UsageError

SUFFIXES = (".txt", ".md", ".jsonl")


def texts(folder: Path, place: str) -> list[str]:
    """Return the texts of a file or folder, in order of their paths; none for an empty place.

    Each text or Markdown file is one text, and so is the field `text` of each line of JSON.

    Raises:
        UsageError: there is no such place, no text in it, or a line is not of this form.
    """
    if not place:
        return []
    source = folder / place
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    found = [
        text for path in files if path.suffix.lower() in SUFFIXES for text in _of(path) if text
    ]
    if not found:
        raise UsageError(
            f"pretrain.replay: {source} holds no text; give a file or folder of .txt, .md or "
            f".jsonl."
        )
    return found


def _of(path: Path) -> list[str]:
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"pretrain.replay: {path} cannot be read ({error}).") from error
    if path.suffix.lower() != ".jsonl":
        return [content.strip()]
    found = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(str(json.loads(line)["text"]).strip())
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f'pretrain.replay: {path}, line {number} is not of the form {{"text": "..."}}.'
            ) from None
    return found
