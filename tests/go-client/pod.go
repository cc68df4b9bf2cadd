package main

import (
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// pod decodes a manifest as the kubelet does, but refuses unknown and repeated fields, too.
func pod(file string) (result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	object, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		return nil, err
	}
	decoded, isPod := object.(*corev1.Pod)
	if !isPod || len(decoded.Spec.Containers) != 1 {
		return nil, fmt.Errorf("%s is not a pod of one container", file)
	}
	return result{"name": decoded.Name, "image": decoded.Spec.Containers[0].Image}, nil
}
