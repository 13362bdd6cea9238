"""Compiled decoding of Llama-shaped models on a CPU: products, attention over pages, and the forward pass of them."""
