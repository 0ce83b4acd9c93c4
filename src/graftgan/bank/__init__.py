"""Piggyback GAN (Zhai et al., ECCV 2020): a bank of filters that grows by a fraction of a model a task."""
