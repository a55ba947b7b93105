"""Files and settings: manifests, JSON, records in SQLite, the cache folder, checked settings."""
