"""Terms on the code of a row beside those of all rows: moments, dependence, support."""
