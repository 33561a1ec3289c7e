"""Data flow of functions in six languages, as GraphCodeBERT reads it."""
