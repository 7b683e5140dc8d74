"""One sampling run: what is put around it, its state, and what goes wrong in it."""
