"""A pass of the user's own in the pipeline."""
