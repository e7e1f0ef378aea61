"""Passages to drafts: by rules from the text's own sentences, or by language models."""
