"""The graph, and what an op must be able to do."""
