"""Run untrusted Python programs in processes without rights: `pool.Sandbox`. docs/sandbox.md says what is contained."""
