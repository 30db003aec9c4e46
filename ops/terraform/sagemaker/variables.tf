variable "bucket" {
  description = "A new bucket, for what the endpoints capture."
  type        = string
}

variable "role" {
  description = "A new role, of the endpoints' machines."
  type        = string
  default     = "headgate-endpoints"
}

variable "policy_file" {
  description = "What `headgate doctor --policy release.yaml` printed."
  type        = string
}

variable "capture_days" {
  description = "How long captured requests and answers are kept."
  type        = number
  default     = 30
}

variable "kms_key" {
  description = "Encrypts the captures; AWS's own key where empty."
  type        = string
  default     = ""
}

variable "tags" {
  description = "On everything that is made."
  type        = map(string)
  default     = {}
}
