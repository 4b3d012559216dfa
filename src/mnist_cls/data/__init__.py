"""MNIST and similar datasets: loading, splits, batches, augmentation; scans and corruptions for tests."""
