"""The estimators and models, with the API of pyspark.ml."""
