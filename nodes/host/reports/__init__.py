"""What a run says of itself, in words and to the browser."""
