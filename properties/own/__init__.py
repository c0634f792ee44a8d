"""Laws of a user's own model, recipe and optimizer; run only where one is given."""
