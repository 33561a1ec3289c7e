"""From pairs to a trained sentence-transformers model."""
