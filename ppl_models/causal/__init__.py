"""Papers whose variables cause one another, and are set by hand."""
