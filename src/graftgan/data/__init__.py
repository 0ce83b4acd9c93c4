"""Image sets: reading, decoding, checking, splitting, packing; and the reader of what was packed."""
