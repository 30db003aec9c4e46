variable "subscription" {
  type        = string
  description = "The subscription's id."
}

variable "group" {
  type        = string
  description = "The resource group that is made."
  default     = "ml"
}

variable "workspace" {
  type        = string
  description = "The Azure ML workspace that is made."
  default     = "main"
}

variable "prefix" {
  type        = string
  description = "Begins the names of the storage, the vault and the registry, which are unique in all of Azure: 3 to 15 letters and digits."
}

variable "location" {
  type        = string
  description = "Where all of it is."
  default     = "westeurope"
}

variable "container" {
  type        = string
  description = "The container of the workspace's datastore `workspaceblobstore`, which Azure names; known once the workspace is there."
  default     = "azureml-blobstore"
}

variable "capture_days" {
  type        = number
  description = "How long requests and answers are kept."
  default     = 30
}

variable "private" {
  type        = bool
  description = "target.private of the release file: the workspace is reached through its private endpoint only."
  default     = false
}

variable "role_file" {
  type        = string
  description = "What `headgate doctor --policy release.yaml` wrote."
}

variable "principals" {
  type        = list(string)
  description = "The object ids of those who release."
  default     = []
}

variable "tags" {
  type        = map(string)
  description = "On everything that is made, for bills."
  default     = {}
}
