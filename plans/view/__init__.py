"""Plans, heads and videos as pictures and numbers to look at."""
