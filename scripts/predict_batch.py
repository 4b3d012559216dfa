#!/usr/bin/env python
"""Predict in pipelines, from a checkout: the same as `python -m mnist_cls.predict_batch`."""

from mnist_cls.predict_batch import main

if __name__ == "__main__":
    main()
