"""Graph[INTEGER] → Program: fusion, order, memory."""
