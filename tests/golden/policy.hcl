# A policy of the login at https://vault-1.example:8200, https://vault-2.example:8200, in admin
# The key that wraps, in admin
path "transit/encrypt/kms-key" {
  capabilities = ["update"]
}
path "transit/decrypt/kms-key" {
  capabilities = ["update"]
}
path "transit/keys/kms-key" {
  capabilities = ["read"]
}
# The token itself
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# A policy of the login at https://old.example:8200, in the root namespace
# decrypt_only "before", in the root namespace
path "transit/decrypt/old-key" {
  capabilities = ["update"]
}
path "transit/keys/old-key" {
  capabilities = ["read"]
}
# The token itself
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
