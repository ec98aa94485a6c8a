"""What the model sees of one target, and why: data for programs, and a page for the terminal."""
