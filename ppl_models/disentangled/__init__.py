"""Papers whose codes stand for one factor each."""
