# What has to be there before the first release to Azure ML: a workspace with its storage, vault, insights and registry of
# images, a rule that removes what was collected, and a role for whoever releases.

terraform {
  required_version = ">= 1.5"
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.0"
    }
  }
}

provider "azurerm" {
  subscription_id = var.subscription
  features {}
}

data "azurerm_client_config" "current" {}

resource "azurerm_resource_group" "ml" {
  name     = var.group
  location = var.location
  tags     = var.tags
}

resource "azurerm_storage_account" "ml" {
  name                            = "${var.prefix}store"
  resource_group_name             = azurerm_resource_group.ml.name
  location                        = azurerm_resource_group.ml.location
  account_tier                    = "Standard"
  account_replication_type        = "LRS"
  allow_nested_items_to_be_public = false
  tags                            = var.tags
}

# Requests and answers are people's data: they go by themselves.
resource "azurerm_storage_management_policy" "captures" {
  storage_account_id = azurerm_storage_account.ml.id
  rule {
    name    = "captures"
    enabled = true
    filters {
      prefix_match = ["${var.container}/modelDataCollector"]
      blob_types   = ["blockBlob", "appendBlob"]
    }
    actions {
      base_blob {
        delete_after_days_since_modification_greater_than = var.capture_days
      }
    }
  }
}

resource "azurerm_key_vault" "ml" {
  name                = "${var.prefix}vault"
  resource_group_name = azurerm_resource_group.ml.name
  location            = azurerm_resource_group.ml.location
  tenant_id           = data.azurerm_client_config.current.tenant_id
  sku_name            = "standard"
  tags                = var.tags
}

resource "azurerm_application_insights" "ml" {
  name                = "${var.prefix}insights"
  resource_group_name = azurerm_resource_group.ml.name
  location            = azurerm_resource_group.ml.location
  application_type    = "web"
  tags                = var.tags
}

resource "azurerm_container_registry" "ml" {
  name                = "${var.prefix}images"
  resource_group_name = azurerm_resource_group.ml.name
  location            = azurerm_resource_group.ml.location
  sku                 = var.private ? "Premium" : "Standard"
  admin_enabled       = false
  tags                = var.tags
}

resource "azurerm_machine_learning_workspace" "ml" {
  name                          = var.workspace
  resource_group_name           = azurerm_resource_group.ml.name
  location                      = azurerm_resource_group.ml.location
  application_insights_id       = azurerm_application_insights.ml.id
  key_vault_id                  = azurerm_key_vault.ml.id
  storage_account_id            = azurerm_storage_account.ml.id
  container_registry_id         = azurerm_container_registry.ml.id
  public_network_access_enabled = !var.private
  tags                          = var.tags
  identity {
    type = "SystemAssigned"
  }
}

locals {
  role = jsondecode(file(var.role_file))
}

# `headgate doctor --policy release.yaml > role.json` writes it.
resource "azurerm_role_definition" "releases" {
  name  = "Headgate"
  scope = azurerm_resource_group.ml.id
  permissions {
    actions      = local.role.Actions
    data_actions = local.role.DataActions
  }
  assignable_scopes = [azurerm_resource_group.ml.id]
}

resource "azurerm_role_assignment" "releases" {
  for_each           = toset(var.principals)
  scope              = azurerm_resource_group.ml.id
  role_definition_id = azurerm_role_definition.releases.role_definition_resource_id
  principal_id       = each.value
}
