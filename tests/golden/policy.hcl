# The key that wraps: https://vault-1.example:8200, https://vault-2.example:8200, in admin
path "transit/encrypt/kms-key" {
  capabilities = ["update"]
}
path "transit/decrypt/kms-key" {
  capabilities = ["update"]
}
path "transit/keys/kms-key" {
  capabilities = ["read"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
# decrypt_only "before": https://old.example:8200, in the root namespace
path "transit/decrypt/old-key" {
  capabilities = ["update"]
}
path "transit/keys/old-key" {
  capabilities = ["read"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
