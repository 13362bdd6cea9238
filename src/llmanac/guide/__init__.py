"""The almanac as a place to learn: calculators, exercises, questions, and a page for every row of the catalogue."""
