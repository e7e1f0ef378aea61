"""Answers to scores: letters, text, key facts, judges, experts."""
