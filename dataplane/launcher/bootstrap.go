package launcher

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
)

// bootstrap writes Envoy's bootstrap and the token that it reads, both mode 0600, and returns the
// bootstrap's path.
func (l *Launcher) bootstrap(t *trust) (string, error) {
	host, portText, err := net.SplitHostPort(l.address)
	if err != nil {
		return "", fmt.Errorf("--cp: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", fmt.Errorf("--cp: port %q: %w", portText, err)
	}
	ca, err := t.envoyCA()
	if err != nil {
		return "", err
	}
	token := filepath.Join(l.dir, "token")
	if err := writePrivate(token, []byte(l.cfg.Token)); err != nil {
		return "", err
	}
	conf := bootstrap.Config{
		NodeID:    l.proxy.nodeID,
		Cluster:   l.proxy.cluster,
		ProxyType: l.proxy.proxyType,
		Resource:  l.proxy.document,
		Inbounds:  l.proxy.sections,
		Metadata:  map[string]string{"version": l.cfg.Version},
		Host:      host,
		Port:      uint32(port),
		CA:        ca,
		AnyName:   len(t.pins) > 0,
		Insecure:  t.skip,
		TokenFile: token,
		AdminPort: uint32(l.cfg.AdminPort),
	}
	if l.cfg.AdminPort == 0 {
		conf.AdminSocket = l.admin.address
	}
	data, err := bootstrap.Build(conf)
	if err != nil {
		return "", err
	}
	path := filepath.Join(l.dir, "bootstrap.json")
	return path, writePrivate(path, data)
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
