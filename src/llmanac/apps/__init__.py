"""Applications: what is written on the library, one package each."""
