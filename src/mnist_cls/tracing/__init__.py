"""Record and show a forward pass: every operation with its shapes, cost and values."""
