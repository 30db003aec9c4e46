"""Kubernetes: revisions are Deployments of one namespace, behind Envoy or what else the cluster has."""
