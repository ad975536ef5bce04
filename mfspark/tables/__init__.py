"""DataFrames of ratings in, DataFrames or numbers out."""
