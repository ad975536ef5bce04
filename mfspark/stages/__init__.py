"""The steps between tables: DataFrame in, DataFrame out. No stage reads or writes files."""
