"""One run of a pair on a batch: its sites, their log densities, and sums over labels."""
