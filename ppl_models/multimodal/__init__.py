"""Papers on rows of several modalities, of which each row may lack some."""
