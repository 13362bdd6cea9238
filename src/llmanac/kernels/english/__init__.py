"""English words and sentences."""
