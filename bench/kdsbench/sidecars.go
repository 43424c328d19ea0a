package kdsbench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/bench/controlplane"
	"github.com/meridian-mesh/meridian/bench/standin"
	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/mesh"
)

// sidecarsPerZone join each zone with a wire. They are instances of two services in turn, so that
// services go up and their status down.
const sidecarsPerZone = 5

// reconnectPause is how long a sidecar waits before it connects again.
const reconnectPause = 200 * time.Millisecond

// dataplane is the document of a sidecar; its arguments are name, address and service.
const dataplane = `type: Dataplane
mesh: default
name: %s
networking:
  address: %s
  inbound:
    - port: 8080
      tags:
        kuma.io/service: %s
        kuma.io/protocol: http
`

// sidecars runs those of a zone until ctx ends; it returns once all have their configuration.
func sidecars(ctx context.Context, group *errgroup.Group, m *member) error {
	shared := standin.NewContents()
	for i := range sidecarsPerZone {
		name, service := fmt.Sprintf("sidecar-%d", i), []string{"web", "backend"}[i%2]
		token, err := dataplaneToken(ctx, m, name, service)
		if err != nil {
			return err
		}
		s, err := standin.New(standin.Config{
			Address: address(m.number, 5678),
			// The stand-in is not what is measured: it trusts the zone on its own machine.
			TLS:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec
			Token:  token,
			NodeID: "default." + name,
			Metadata: map[string]string{
				"dataplane.resource": fmt.Sprintf(dataplane, name,
					fmt.Sprintf("127.78.%d.%d", 100+m.number, 1+i), service),
			},
			Contents: shared,
		})
		if err != nil {
			return err
		}
		group.Go(func() error { return stayConnected(ctx, s) })

		waiting, cancel := context.WithTimeout(ctx, readyTimeout)
		select {
		case <-s.Configured():
		case <-waiting.Done():
			err = waiting.Err()
		}
		cancel()
		if err != nil {
			return fmt.Errorf("configuration of %s in %s: %w", name, m.name, err)
		}
	}
	return nil
}

// dataplaneToken of a sidecar; the mesh may not have come to the zone yet.
func dataplaneToken(ctx context.Context, m *member, name, service string) (token string, err error) {
	ask := func(ctx context.Context) error {
		token, err = m.client.IssueDataplaneToken(ctx, client.DataplaneToken{
			Mesh: mesh.DefaultMesh,
			Name: name,
			Tags: map[string][]string{mesh.TagService: {service}},
		})
		return err
	}
	err = controlplane.Await(ctx, readyTimeout, controlplane.Poll, "zone "+m.name+" issues tokens", ask)
	return token, err
}

// stayConnected connects a sidecar again whenever its stream has ended.
func stayConnected(ctx context.Context, s *standin.Sidecar) error {
	for {
		err := s.Run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := backoff.Wait(ctx, reconnectPause); err != nil {
			return nil
		}
	}
}
