"""Fast paths; tests compare each with its plain form."""
