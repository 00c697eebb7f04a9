"""Graph[TYPED] → Graph[INTEGER]."""
