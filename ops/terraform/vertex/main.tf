# What has to be there before the first release to Vertex AI: the services, a dataset for what is logged, and a role for
# whoever releases. Repositories of images are made by the releases themselves.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.location
}

resource "google_project_service" "needed" {
  for_each = toset([
    "aiplatform.googleapis.com", "artifactregistry.googleapis.com", "bigquery.googleapis.com",
    "cloudresourcemanager.googleapis.com", "logging.googleapis.com", "monitoring.googleapis.com",
    "serviceusage.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

# Requests and answers are people's data: they go by themselves. Vertex AI makes the table with the first request.
resource "google_bigquery_dataset" "captures" {
  dataset_id                      = var.dataset
  location                        = var.location
  default_partition_expiration_ms = var.capture_days * 24 * 3600 * 1000
  default_table_expiration_ms     = var.capture_days * 24 * 3600 * 1000
  labels                          = var.labels
}

# `headgate doctor --policy release.yaml > role.yaml` writes it.
resource "google_project_iam_custom_role" "releases" {
  role_id     = var.role
  title       = "Headgate"
  permissions = yamldecode(file(var.role_file)).includedPermissions
}

resource "google_project_iam_member" "releases" {
  for_each = toset(var.members)
  project  = var.project
  role     = google_project_iam_custom_role.releases.id
  member   = each.value
}
