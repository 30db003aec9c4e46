output "role" {
  description = "target.role of the release file."
  value       = aws_iam_role.endpoints.arn
}

output "captures" {
  description = "target.captures of the release file."
  value       = "s3://${aws_s3_bucket.captures.id}/captures"
}

output "policy" {
  description = "To be attached to whoever releases."
  value       = aws_iam_policy.releases.arn
}
