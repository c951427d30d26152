"""Draws, densities and importance weights of a table's rows, as InferenceData and as files."""
