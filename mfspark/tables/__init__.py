"""Operations on rating tables: DataFrames in, DataFrames or numbers out."""
