output "captures" {
  description = "target.captures of the release file."
  value       = "bq://${var.project}.${google_bigquery_dataset.captures.dataset_id}.live"
}
