"""Graph[FLOAT] → Graph[TYPED]: ranges of values over samples, and integer types from them."""
