// Package seal encrypts secrets at rest with one key from a file.
//
// # Model
//
// AES-256-GCM with a random nonce per value. A sealed value is a version byte, the nonce, and the
// ciphertext with its tag; the context (the resource's key as text) is authenticated, so that a
// value moved to another resource does not open. The fingerprint is the first 16 hex digits of a
// hash of the key: a store keeps it and refuses another key.
//
// # For operators
//
// The key file holds 32 bytes as one line of base64 and has mode 0600. With it and the store's
// rows every secret can be read; without it, none. All replicas of one store
// need the same file. Do not write more than some billions of secrets with one key: nonces are
// random.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// KeySize in bytes.
const KeySize = 32

// version of the format of sealed values.
const version = 1

// Sealer seals and opens with one key. Stores take it as their store.Sealer.
type Sealer struct {
	aead        cipher.AEAD
	fingerprint string
}

// New makes a Sealer of a key of KeySize bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the encryption key has %d bytes, it must have %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("meridian encryption key fingerprint\x00"), key...))
	return &Sealer{aead: aead, fingerprint: hex.EncodeToString(sum[:8])}, nil
}

// LoadOrCreate reads the key file. If there is none and create is true it makes one, mode 0600; it
// never replaces one.
func LoadOrCreate(path string, create bool) (*Sealer, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		if err := makeKey(path); err != nil {
			return nil, fmt.Errorf("make the encryption key: %w", err)
		}
		if text, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("read the encryption key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("the encryption key %s may be read by everybody (mode %04o): chmod 600 it",
			path, mode)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("the encryption key %s is not one line of base64: %w", path, err)
	}
	s, err := New(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// makeKey writes a new key under another name and links it into place, so that of two processes one
// wins and no reader sees half a key.
func makeKey(path string) error {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".encryption-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Seal encrypts plain and authenticates context with it; it fails if the system gives no randomness.
func (s *Sealer) Seal(plain, context []byte) ([]byte, error) {
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	out[0] = version
	if _, err := rand.Read(out[1:]); err != nil {
		return nil, err
	}
	return s.aead.Seal(out, out[1:], plain, context), nil
}

// Open gives what was sealed with the same context; it fails if it was altered or sealed otherwise.
func (s *Sealer) Open(sealed, context []byte) ([]byte, error) {
	n := 1 + s.aead.NonceSize()
	if len(sealed) < n+s.aead.Overhead() || sealed[0] != version {
		return nil, errors.New("not a sealed value of a known version")
	}
	plain, err := s.aead.Open(nil, sealed[1:n], sealed[n:], context)
	if err != nil {
		return nil, errors.New("the value was sealed with another key, for another resource, or was altered")
	}
	return plain, nil
}

// Fingerprint names the key without saying it: 16 hex digits.
func (s *Sealer) Fingerprint() string { return s.fingerprint }
