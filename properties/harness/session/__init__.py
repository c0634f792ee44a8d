"""What a run of pytest is made of: axes, shards, the example database, the summary."""
