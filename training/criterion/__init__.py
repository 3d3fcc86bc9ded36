"""The detection losses."""
