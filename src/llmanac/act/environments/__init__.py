"""Text environments in which a random policy succeeds in less than a tenth of its episodes."""
