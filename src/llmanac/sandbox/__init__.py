"""Run untrusted Python programs in processes without rights. `pool.py` has `Sandbox`; docs/sandbox.md says what it holds."""
