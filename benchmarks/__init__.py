"""Tables of models, sizes and instructions: they print and assert nothing."""
