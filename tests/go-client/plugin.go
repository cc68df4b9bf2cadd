package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"k8s.io/kms/pkg/service"
)

// plugin adds kube-apiserver's checks to its KMS client, on one connection.
type plugin struct{ service.Service }

// sealed is one answer of Encrypt and what it must decrypt to.
type sealed struct {
	plaintext []byte
	*service.EncryptResponse
}

// encrypt wraps 32 random bytes, the size of the apiserver's DEK seed, under the key that Status names.
func (p plugin) encrypt(ctx context.Context) (*service.StatusResponse, sealed, error) {
	fail := func(err error) (*service.StatusResponse, sealed, error) { return nil, sealed{}, err }

	status, err := p.Status(ctx)
	if err != nil {
		return fail(fmt.Errorf("Status: %w", err))
	}
	if status.Healthz != "ok" || status.Version != kmsv2.KMSAPIVersionv2 {
		return fail(fmt.Errorf("Status: healthz is %q, version is %q", status.Healthz, status.Version))
	}
	if _, err := kmsv2.ValidateKeyID(status.KeyID); err != nil {
		return fail(fmt.Errorf("Status: %w", err))
	}

	plaintext := make([]byte, 32)
	rand.Read(plaintext) // never fails
	response, err := p.Encrypt(ctx, string(uuid.NewUUID()), plaintext)
	if err != nil {
		return fail(fmt.Errorf("Encrypt: %w", err))
	}
	// The limits of ciphertext and annotations are private to kmsv2; this checks them all, with the
	// same stand-in for the data as the apiserver's GenerateTransformer.
	if err := kmsv2.ValidateEncryptedObject(&kmstypes.EncryptedObject{
		KeyID:                  response.KeyID,
		EncryptedDEKSource:     response.Ciphertext,
		EncryptedDEKSourceType: kmstypes.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED,
		EncryptedData:          []byte{0},
		Annotations:            response.Annotations,
	}); err != nil {
		return fail(fmt.Errorf("Encrypt: %w", err))
	}
	// The apiserver throws such an answer away and stays with its old DEK, so it is never right.
	if response.KeyID != status.KeyID {
		return fail(fmt.Errorf("Encrypt used key_id %q, Status said %q", response.KeyID, status.KeyID))
	}
	if bytes.Contains(response.Ciphertext, plaintext) {
		return fail(errors.New("Encrypt: the ciphertext shows the plaintext"))
	}
	return status, sealed{plaintext, response}, nil
}

func (p plugin) decrypt(ctx context.Context, s sealed) error {
	plaintext, err := p.Decrypt(ctx, string(uuid.NewUUID()), &service.DecryptRequest{
		Ciphertext: s.Ciphertext, KeyID: s.KeyID, Annotations: s.Annotations,
	})
	if err != nil {
		return fmt.Errorf("Decrypt: %w", err)
	}
	if !bytes.Equal(plaintext, s.plaintext) {
		return errors.New("Decrypt: not the bytes that were encrypted")
	}
	return nil
}

// roundTrips reports what the last of them saw.
func (p plugin) roundTrips(ctx context.Context, count int) (found result, err error) {
	for n := 1; n <= count; n++ {
		status, newest, err := p.encrypt(ctx)
		if err == nil {
			err = p.decrypt(ctx, newest)
		}
		if err != nil {
			return nil, fmt.Errorf("round trip %d: %w", n, err)
		}
		found = result{
			"version": status.Version, "healthz": status.Healthz, "key_id": status.KeyID,
			"ciphertext_bytes": len(newest.Ciphertext), "round_trips": n,
		}
	}
	return found, nil
}

// rotate expects the key to be rotated from outside while it runs. Nothing may fail meanwhile, and
// what the first key wrapped must stay readable.
func (p plugin) rotate(ctx context.Context, duration time.Duration) (result, error) {
	var (
		first  sealed
		keyIDs []string
		loops  int
	)
	for end := time.Now().Add(duration); loops == 0 || time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		loops++
		_, newest, err := p.encrypt(ctx)
		if loops == 1 {
			first = newest
		}
		if err == nil {
			err = p.decrypt(ctx, newest)
		}
		if err != nil {
			return nil, fmt.Errorf("loop %d: %w", loops, err)
		}
		if err := p.decrypt(ctx, first); err != nil {
			return nil, fmt.Errorf("loop %d: the first ciphertext: %w", loops, err)
		}
		if !slices.Contains(keyIDs, newest.KeyID) {
			keyIDs = append(keyIDs, newest.KeyID)
		}
	}
	return result{"key_ids": keyIDs, "loops": loops}, nil
}

// preflight waits as OpenShift's preflight checker does: a plugin that is away and one that is not yet
// healthy are both asked again. status_calls counts these calls, not the round trip's own.
func (p plugin) preflight(ctx context.Context) (result, error) {
	var calls int
	var last error
	err := wait.PollUntilContextTimeout(ctx, 2*time.Second, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		calls++
		status, err := p.Status(ctx)
		if err == nil && status.Healthz != "ok" {
			err = fmt.Errorf("healthz is %q", status.Healthz)
		}
		last = err
		return err == nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("not healthy after %d Status calls, at last: %w", calls, last)
	}
	found, err := p.roundTrips(ctx, 1)
	if err != nil {
		return nil, err
	}
	found["status_calls"] = calls
	return found, nil
}
