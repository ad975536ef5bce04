"""Factor tables to tables of answers: recommendations, predictions, explanations, folded-in factors."""
