"""What a pass is, pipelines, and passes of no one phase."""
