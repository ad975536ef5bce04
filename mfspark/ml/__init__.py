"""The estimators and models: the face of pyspark.ml."""
