"""What must hold: one file per theme, one test per law."""
