"""Questions and passages to adapters; a small Llama from scratch."""
