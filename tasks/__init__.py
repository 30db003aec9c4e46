"""The steps of the flows, as Prefect tasks: thin, named by verbs; the logic is in the rooms below."""
