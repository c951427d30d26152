"""Papers with a hierarchy of latent variables over sets of elements."""
