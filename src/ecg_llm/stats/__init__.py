"""Scores to estimates: means, paired differences, ranks, strengths, biases."""
