"""The page and the summary made of a run's record, junit XML."""
