"""From the contents of inputs to batches of images in MNIST's form."""
