"""Factor tables in; recommendations, predictions, explanations and folded-in factors out."""
