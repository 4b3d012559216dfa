"""Commands under Hydra: typed settings, run folders, errors in one line."""
