"""Rank the codes for each query, and say how sure the figure is."""
