package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
)

// transformer stores a Secret as kube-apiserver does and reads it back as the next kube-apiserver would.
func transformer(ctx context.Context, file string) (result, error) {
	etcdKey := value.DefaultContext("/registry/secrets/default/go-client")
	line := []byte("kind: Secret, stored by the go-client. ")
	plaintext := bytes.Repeat(line, 64)

	writer, err := startApiserver(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("writer: %w", err)
	}
	stored, err := writer.TransformToStorage(ctx, plaintext, etcdKey)
	if err != nil {
		return nil, fmt.Errorf("to storage: %w", err)
	}
	// Without this check, a value that the identity provider left plain would come back identical, too.
	encoded, wrapped := bytes.CutPrefix(stored, []byte("k8s:enc:kms:v2:"+providerName+":"))
	if !wrapped || bytes.Contains(stored, line) {
		return nil, errors.New("to storage: not wrapped by the kms provider, or the plaintext shows")
	}
	var object kmstypes.EncryptedObject
	if err := proto.Unmarshal(encoded, &object); err != nil {
		return nil, fmt.Errorf("to storage: %w", err)
	}

	// The writer has its DEK in memory and would not ask the plugin to unwrap it. This one has another
	// DEK, as after a restart, and must ask.
	reader, err := startApiserver(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("reader: %w", err)
	}
	read, stale, err := reader.TransformFromStorage(ctx, stored, etcdKey)
	if err != nil {
		return nil, fmt.Errorf("from storage: %w", err)
	}
	// An apiserver that takes what it has just stored for stale writes every object anew.
	if stale || !bytes.Equal(read, plaintext) {
		return nil, fmt.Errorf("from storage: stale is %t, identical is %t", stale, bytes.Equal(read, plaintext))
	}
	return result{"stored_bytes": len(stored), "stored": stored, "key_id": object.KeyID}, nil
}

// startApiserver gives the transformer of Secrets. It loads --encryption-provider-config with
// kube-apiserver's loader, which asks Status and has a DEK seed wrapped, and asks its health check.
func startApiserver(ctx context.Context, file string) (value.Transformer, error) {
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, file, false, "go-client")
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		return nil, err
	}
	// A plugin that is away does not fail the loading, only this.
	for _, check := range config.HealthChecks {
		if err := check.Check(request); err != nil {
			return nil, err
		}
	}
	secrets := schema.GroupResource{Resource: "secrets"}
	return encryptionconfig.StaticTransformers(config.Transformers).TransformerForResource(secrets), nil
}
