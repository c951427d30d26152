"""Metrics of a table of codes beside the factors that its rows were made from."""
