"""What a plan is: its bands and heads, its files, its text, its card, its limits, and models it is bound to."""
