"""Autoencoding variational Bayes and its kin."""
