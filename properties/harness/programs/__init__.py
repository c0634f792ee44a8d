"""Random programs run in every way that torch can run code, and compared with eager."""
