"""Papers of cells and their genes."""
