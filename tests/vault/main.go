// HashiCorp Vault Community for the tests, built from its Go module: its releases cannot be had from a package index.
//
// Vault is under the Business Source License 1.1. It is a tool of the tests, as a compiler is one: it is a part of no
// package and no image of kms-plugin. It is not HashiCorp's release either: other build flags, fewer plugins, no UI.
package main

import (
	"os"
	"reflect"
	"unsafe"

	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/command"
	"github.com/hashicorp/vault/helper/builtinplugins"
	"github.com/hashicorp/vault/sdk/logical"
)

// The build tag `minimal` leaves out hundreds of packages of databases and clouds, and with them the auth method
// kubernetes, which HashiCorp's release has. The registry of plugins has no function that adds one.
func addKubernetes() {
	field := reflect.ValueOf(builtinplugins.Registry).Elem().FieldByName("credentialBackends")
	backends := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem()
	backend := reflect.New(backends.Type().Elem()).Elem()
	backend.FieldByName("Factory").Set(reflect.ValueOf(logical.Factory(kubernetes.Factory)))
	backends.SetMapIndex(reflect.ValueOf("kubernetes"), backend)
}

func main() {
	addKubernetes()
	os.Exit(command.Run(os.Args[1:]))
}
