"""Scaling laws: runs of several sizes (`points`), a law fitted to them (`law`, `optimum`), and what follows from it."""
