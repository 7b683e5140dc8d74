"""What is measured of heads: candidates, their errors, pictures of heads, and the files of profiles."""
