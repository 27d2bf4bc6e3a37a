package agent

import (
	"errors"
	"fmt"
	"io/fs"

	"ecowatt/agent/identity"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// maxCredential bounds what is read of a credential, in bytes.
const maxCredential = 4 << 10

// storageKey derives the key that seals the device's keys from the credential
// identity.StorageCredential in a folder; none where there is no folder or no
// such credential.
func storageKey(credentials string) (key.Storage, error) {
	if credentials == "" {
		return key.Storage{}, nil
	}
	secret, err := disk.ReadFile(disk.OS(credentials), identity.StorageCredential, maxCredential)
	defer clear(secret)
	if errors.Is(err, fs.ErrNotExist) {
		return key.Storage{}, nil
	}
	if err != nil {
		return key.Storage{}, fmt.Errorf("%s: %w", credentials, err)
	}
	k, err := key.StorageFromSecret(secret)
	if err != nil {
		return key.Storage{}, fmt.Errorf("the credential %s in %s: %w", identity.StorageCredential, credentials, err)
	}
	return k, nil
}
