"""Algorithms without training: importance, annealing, HMC, Gibbs, modes, a guide per row."""
