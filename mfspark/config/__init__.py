"""The configuration of a run: TOML in, one frozen dataclass a section out."""
