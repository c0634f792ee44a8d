"""What the laws share: snapshots, checks, the trainer, the oracle, the axes."""
