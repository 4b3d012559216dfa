"""The forward pass seen: every operation with its shapes, cost and values."""
