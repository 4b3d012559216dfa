"""Digits over HTTP: an application, its batches, and its metrics."""
