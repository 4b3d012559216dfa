"""Training: the LightningModule, the trainer, its callbacks, and how a run resumes."""
