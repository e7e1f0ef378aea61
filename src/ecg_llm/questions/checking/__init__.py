"""Drafts to questions: each kept, or dropped by the first check that it fails."""
