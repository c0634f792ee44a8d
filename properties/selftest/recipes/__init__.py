"""Small training recipes: half of them right, half with one real mistake each."""
