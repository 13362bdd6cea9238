"""Scaling laws: runs of several sizes (`points`), the law fitted to them (`law`, `optimum`), and what follows from it."""
