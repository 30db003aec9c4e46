"""Amazon SageMaker real-time endpoints: a revision is a variant, and CloudWatch is the judge's evidence."""
