"""Source checkpoints: the catalogue, and networks in safetensors files."""
