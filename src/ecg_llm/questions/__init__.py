"""Passages to checked and split questions; import of question sets."""
