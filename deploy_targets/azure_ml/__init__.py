"""Azure Machine Learning: managed online endpoints of one workspace."""
