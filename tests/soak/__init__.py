"""A soak: many rounds of what users do with images and machines, several at once, and what is left after each."""
