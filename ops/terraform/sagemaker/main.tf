# What has to be there before the first release to SageMaker: a bucket for captures, a role for the endpoints, and a policy
# for whoever releases. Repositories of images are made by the releases themselves.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

data "aws_partition" "current" {}
data "aws_caller_identity" "current" {}

locals {
  bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${aws_s3_bucket.captures.id}"
}

resource "aws_s3_bucket" "captures" {
  bucket = var.bucket
  tags   = var.tags
}

resource "aws_s3_bucket_public_access_block" "captures" {
  bucket                  = aws_s3_bucket.captures.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "captures" {
  bucket = aws_s3_bucket.captures.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key == "" ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key == "" ? null : var.kms_key
    }
  }
}

# Requests and answers are people's data: they go by themselves, also those of versions that nobody retired.
resource "aws_s3_bucket_lifecycle_configuration" "captures" {
  bucket = aws_s3_bucket.captures.id
  rule {
    id     = "captures-go"
    status = "Enabled"
    filter {}
    expiration {
      days = var.capture_days
    }
  }
}

data "aws_iam_policy_document" "sagemaker_may" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["sagemaker.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_iam_role" "endpoints" {
  name               = var.role
  assume_role_policy = data.aws_iam_policy_document.sagemaker_may.json
  tags               = var.tags
}

data "aws_iam_policy_document" "endpoints" {
  statement {
    actions   = ["s3:PutObject"]
    resources = ["${local.bucket_arn}/*"]
  }
  statement {
    actions = [
      "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer",
      "logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents",
      "cloudwatch:PutMetricData", "cloudwatch:DescribeAlarms",
    ]
    resources = ["*"]
  }
}

resource "aws_iam_role_policy" "endpoints" {
  role   = aws_iam_role.endpoints.id
  policy = data.aws_iam_policy_document.endpoints.json
}

# `headgate doctor --policy release.yaml > policy.json` writes it.
resource "aws_iam_policy" "releases" {
  name   = "${var.role}-releases"
  policy = file(var.policy_file)
  tags   = var.tags
}
