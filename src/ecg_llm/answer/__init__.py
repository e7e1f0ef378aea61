"""Questions to answers: retrieval, prompts and arms."""
