"""Evidence and decisions: the judge, the paired shadow comparison, drift, triggers, reports."""
