"""Engines: what computes the forward pass of a prediction."""
