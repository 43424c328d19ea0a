package launcher

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/dataplane/relay"
	"github.com/meridian-mesh/meridian/internal/seal"
)

// bootstrap writes Envoy's bootstrap, mode 0600, and returns its path.
func (l *Launcher) bootstrap() (string, error) {
	conf := bootstrap.Config{
		NodeID:    l.proxy.nodeID,
		Cluster:   l.proxy.cluster,
		ProxyType: l.proxy.proxyType,
		Resource:  l.proxy.document,
		Inbounds:  l.proxy.sections,
		Metadata:  map[string]string{"version": l.cfg.Version},
		Socket:    l.socket(),
		AdminPort: uint32(l.cfg.AdminPort),
	}
	if l.cfg.AdminPort == 0 {
		conf.AdminSocket = l.admin.address
	}
	data, err := bootstrap.Build(conf)
	if err != nil {
		return "", err
	}
	// An earlier version wrote the token beside it.
	_ = os.Remove(filepath.Join(l.dir, "token"))
	path := filepath.Join(l.dir, "bootstrap.json")
	return path, writePrivate(path, data)
}

// socket is where Envoy gets its configuration, in a folder of its own.
func (l *Launcher) socket() string { return filepath.Join(l.dir, "ads", "sock") }

// openCache opens what the Envoy of an earlier launcher acknowledged, if the work folder stays.
func (l *Launcher) openCache() (*relay.Cache, error) {
	sealer, err := l.cacheKey()
	if err != nil {
		return nil, err
	}
	return relay.OpenCache(relay.CacheConfig{
		Path:     filepath.Join(l.dir, "cache"),
		Sealer:   sealer,
		Identity: strings.Join([]string{l.proxy.nodeID, l.proxy.proxyType, l.proxy.document}, "\n"),
		Logger:   l.log,
	})
}

// cacheKey is the key of a file; if the work folder ends with the launcher it is never written.
func (l *Launcher) cacheKey() (*seal.Sealer, error) {
	file := l.cfg.CacheKeyFile
	if file == "" && !l.ownDir {
		file = filepath.Join(l.dir, "cache.key")
	}
	if file != "" {
		s, err := seal.LoadOrCreate(file, true)
		if err != nil {
			err = fmt.Errorf("--cache-key-file: %w", err)
		}
		return s, err
	}
	key := make([]byte, seal.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return seal.New(key)
}

// writePrivate replaces a file with one that only its owner may read, whatever mode a former one had.
func writePrivate(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
