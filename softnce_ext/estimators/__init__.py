"""Estimators of how similar a negative is to the query."""
