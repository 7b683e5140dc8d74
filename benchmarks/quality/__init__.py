"""How good plans are, on the small Wan and on heads like those of real models."""
