"""What computes the forward pass of a prediction."""
