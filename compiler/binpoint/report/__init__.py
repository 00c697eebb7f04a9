"""What came out: sizes, types, costs, accuracy and verdict, as JSON and as tables."""
