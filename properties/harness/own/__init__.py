"""What a user brings: a model, a recipe, an optimizer; how each is loaded, watched and judged."""
