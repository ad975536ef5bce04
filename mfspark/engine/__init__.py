"""How work reaches the cores; all private Spark API is here."""
