"""Input and output: manifests, JSON, SQLite records, the cache folder, checked settings."""
