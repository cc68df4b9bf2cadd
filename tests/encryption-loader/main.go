// Command encryption-loader says which EncryptionConfigurations kube-apiserver loads, with its own loader.
//
// It reads one document a line, in base64, and writes one line each: "ok", or the error.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/klog/v2"
	"k8s.io/kms/pkg/service"
)

// good answers at once: whether the plugin of a file runs is not asked here.
type good struct{}

func (good) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "1"}, nil
}

func (good) Encrypt(context.Context, string, []byte) (*service.EncryptResponse, error) {
	return &service.EncryptResponse{Ciphertext: []byte("sealed"), KeyID: "1"}, nil
}

func (good) Decrypt(context.Context, string, *service.DecryptRequest) ([]byte, error) {
	return make([]byte, 32), nil
}

func main() {
	klog.SetLogger(klog.Logger{}) // discards
	real := encryptionconfig.EnvelopeKMSv2ServiceFactory
	encryptionconfig.EnvelopeKMSv2ServiceFactory = func(ctx context.Context, endpoint, name string, timeout time.Duration) (service.Service, error) {
		if _, err := real(ctx, endpoint, name, timeout); err != nil {
			return nil, err
		}
		return good{}, nil
	}
	directory, err := os.MkdirTemp("", "encryption-loader")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(directory)
	file := filepath.Join(directory, "configuration")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		document, err := base64.StdEncoding.DecodeString(lines.Text())
		if err == nil {
			err = os.WriteFile(file, document, 0o600)
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(load(file))
	}
}

func load(file string) (said string) {
	defer func() {
		if panicked := recover(); panicked != nil {
			said = fmt.Sprint("panic: ", panicked)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := encryptionconfig.LoadEncryptionConfig(ctx, file, false, "encryption-loader"); err != nil {
		return strings.Join(strings.Fields(err.Error()), " ")
	}
	return "ok"
}
