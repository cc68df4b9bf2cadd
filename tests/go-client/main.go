// Command go-client calls a KMS v2 plugin with kube-apiserver's own client code, so that the plugin
// is tested against the gRPC stack, the call options and the validation that it meets in a cluster.
//
// It prints one JSON object and exits 0 only when everything was right; otherwise it exits 1 with a
// one-line reason on stderr.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/klog/v2"
)

// providerName is the name in the EncryptionConfiguration; in etcd it is part of every value's prefix.
const providerName = "kms-plugin"

var (
	socket   = flag.String("socket", "", "absolute path of the plugin's unix socket")
	mode     = flag.String("mode", "roundtrip", "roundtrip, rotate, preflight, transformer or pod")
	file     = flag.String("file", "", "transformer: the EncryptionConfiguration; pod: the manifest")
	count    = flag.Int("count", 1, "roundtrip: how often")
	timeout  = flag.Duration("timeout", 3*time.Second, "longest time for one call")
	duration = flag.Duration("duration", 5*time.Second, "rotate: how long")
)

// result is what a mode has to say, as it is printed.
type result map[string]any

func main() {
	flag.Parse()

	// The apiserver's code logs every failed dial to stderr, which is kept for our one line.
	klog.SetLogger(klog.Logger{}) // discards

	found, err := run(context.Background())
	if err == nil {
		found["mode"] = *mode
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		// gRPC and aggregated errors may span lines.
		fmt.Fprintf(os.Stderr, "go-client: %s: %s\n", *mode, strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

func run(ctx context.Context) (result, error) {
	if *mode == "pod" {
		return pod(*file)
	}
	if flag.NArg() > 0 || !strings.HasPrefix(*socket, "/") || *count < 1 || *timeout <= 0 {
		return nil, errors.New("usage: -socket /absolute/path, -count and -timeout above 0, no arguments")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the connections

	endpoint := "unix://" + *socket
	service, err := kmsv2.NewGRPCService(ctx, endpoint, providerName, *timeout)
	if err != nil {
		return nil, err
	}
	kms := plugin{service} // connects with its first call
	switch *mode {
	case "roundtrip":
		return kms.roundTrips(ctx, *count)
	case "rotate":
		return kms.rotate(ctx, *duration)
	case "preflight":
		return kms.preflight(ctx)
	case "transformer":
		return transformer(ctx, *file)
	default:
		return nil, errors.New("no such -mode")
	}
}
