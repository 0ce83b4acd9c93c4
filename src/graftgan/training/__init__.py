"""The training core: losses, averaging, augmentation, exact state and the loop."""
