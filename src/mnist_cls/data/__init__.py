"""MNIST and its relatives: loaded, split, batched, augmented."""
