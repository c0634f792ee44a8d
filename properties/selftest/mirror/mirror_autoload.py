"""The entry point "torch.backends": apart, since it may run within mirror_device's import."""


def load() -> None:
    """Load the device, or let the import that is under way do it."""
    import mirror_device  # noqa: F401
