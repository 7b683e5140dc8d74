"""Which plan a model gets, and where plans lie."""
