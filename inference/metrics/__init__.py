"""Metrics of a table of codes, and of what is generated: what they tell of known factors."""
