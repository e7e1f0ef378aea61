"""Answers to scores: choice, overlap, judge, human."""
