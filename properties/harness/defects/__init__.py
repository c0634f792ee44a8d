"""Known defects of torch, as data: each with its versions, its cells, and the examples that show it."""
