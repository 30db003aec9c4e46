variable "project" {
  description = "The project's id."
  type        = string
}

variable "location" {
  description = "target.location of the release file."
  type        = string
  default     = "us-central1"
}

variable "dataset" {
  description = "A new BigQuery dataset, for what is logged."
  type        = string
  default     = "headgate"
}

variable "capture_days" {
  description = "How long requests and answers are kept."
  type        = number
  default     = 30
}

variable "role" {
  description = "The id of the role for whoever releases."
  type        = string
  default     = "headgate"
}

variable "role_file" {
  description = "What `headgate doctor --policy release.yaml` printed."
  type        = string
}

variable "members" {
  description = "Who releases, such as serviceAccount:ci@project.iam.gserviceaccount.com."
  type        = list(string)
  default     = []
}

variable "labels" {
  description = "On everything that is made here."
  type        = map(string)
  default     = {}
}
