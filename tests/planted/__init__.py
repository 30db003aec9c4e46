"""Plant faults in the product, each of which a test has to find; see run.py."""
