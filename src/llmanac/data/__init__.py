"""Text in, token shards out."""
