"""GraftGAN: adapt pretrained GANs to small image sets, reproducibly."""

__version__ = "0.1.0"
