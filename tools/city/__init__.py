"""A photorealistic-as-we-can twin of central Helsinki, built from OpenStreetMap data."""
