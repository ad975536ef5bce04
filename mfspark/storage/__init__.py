"""Everything that touches a file system."""
