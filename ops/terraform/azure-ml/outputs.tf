output "target" {
  description = "The release file's target."
  value = {
    kind         = "azure-ml"
    subscription = var.subscription
    group        = azurerm_resource_group.ml.name
    workspace    = azurerm_machine_learning_workspace.ml.name
    private      = var.private
  }
}
