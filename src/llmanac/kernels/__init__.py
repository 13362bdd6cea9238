"""Fast paths, each beside the plain form that it must equal."""
