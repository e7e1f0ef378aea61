"""Documents and questions to train, val and test; what tests share with train."""
