"""Weights in files: find, check, read and write them, and build their networks."""
