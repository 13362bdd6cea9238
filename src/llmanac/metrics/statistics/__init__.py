"""Statistics of scores: estimates with intervals, Student's t, resampling, areas under curves."""
