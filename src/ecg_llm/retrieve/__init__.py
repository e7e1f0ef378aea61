"""Passages to what is found: terms, stores, hybrid search and how good it is."""
