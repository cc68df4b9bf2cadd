# Besides the listener on 8200: one on a port without a label, and one with TLS on a port of web servers.
listener "tcp" {
  address     = "127.0.0.1:9200"
  tls_disable = true
}
listener "tcp" {
  address       = "127.0.0.1:8443"
  tls_cert_file = "/var/lib/bao/server.pem"
  tls_key_file  = "/var/lib/bao/server-key.pem"
}
audit "file" "log" {
  options {
    file_path = "/var/lib/bao/audit.log"
  }
}
