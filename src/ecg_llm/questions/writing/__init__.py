"""Passages to drafts: by rules from the text's own sentences, or by language models."""

EXTRACTIVE = "extractive-4"
"""The model-free writer: changes with every change of what it writes, and so makes drafts stale.

Here, since every command asks for it and none should load the writer for that.
"""
