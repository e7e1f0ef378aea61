"""A reply said piece by piece while it is written."""

from collections.abc import Callable


class Speaker:
    """Calls `say` with what each longer text adds to what was said before."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.said = ""

    def hear(self, text: str) -> None:
        """Say what this text adds; nothing where it does not go on from what was said."""
        if len(text) > len(self.said) and text.startswith(self.said):
            self._say(text[len(self.said) :])
            self.said = text

    def finish(self, text: str) -> None:
        """Say the rest of the whole reply; all of it, apart, where something else was said."""
        if text.startswith(self.said):
            self.hear(text)
        elif text:
            self._say(f"\n\n{text}")
            self.said = text
