"""Formulas: numbers in, numbers out. They know no nodes, no names of models and no units but those in their names."""
