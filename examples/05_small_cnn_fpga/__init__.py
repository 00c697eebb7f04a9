"""A convolutional network of four bits."""
