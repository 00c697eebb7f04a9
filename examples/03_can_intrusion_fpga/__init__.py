"""Attacks on a CAN bus, told apart by a network of two bits."""
