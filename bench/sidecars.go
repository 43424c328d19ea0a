package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/bench/standin"
)

// order is a line on the standard input of the sidecars' process; report is a line that answers one.
type order struct {
	// Start connects the sidecars; the answer comes at once.
	Start *startOrder `json:"start,omitempty"`
	// Floor connects as many bare streams to the address; the answer comes at once.
	Floor string `json:"floor,omitempty"`
}

type startOrder struct {
	Address string
	CA      []byte
	Nodes   []string
}

type report struct {
	// Bytes that came in over ADS, by sidecar in the order of Nodes.
	Bytes []int64 `json:"bytes,omitempty"`
	// CPU seconds of the process.
	CPU float64 `json:"cpu"`
}

// retryPause is how long a sidecar waits before it connects again.
const retryPause = 50 * time.Millisecond

// Sidecars is the process of the stand-ins: it takes orders from in and answers each on out until in ends.
func Sidecars(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetGCPercent(400) // their memory is of no interest, their CPU is taken from the control plane
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	h := &hosts{group: group, contents: standin.NewContents()}
	// The goroutine ends with the input, which the parent closes.
	orders := make(chan error, 1)
	go func() {
		enc := json.NewEncoder(out)
		for lines.Scan() {
			var o order
			err := json.Unmarshal(lines.Bytes(), &o)
			if err == nil {
				err = h.obey(ctx, o)
			}
			if err == nil {
				err = enc.Encode(h.report())
			}
			if err != nil {
				orders <- err
				return
			}
		}
		orders <- lines.Err()
	}()
	select {
	case err := <-orders:
		cancel()
		return errors.Join(err, group.Wait())
	case <-ctx.Done():
		return group.Wait()
	}
}

// hosts is what runs in the process. Only the goroutine that reads orders uses it.
type hosts struct {
	group    *errgroup.Group
	contents *standin.Contents
	tls      *tls.Config
	standins []*standin.Sidecar
}

func (h *hosts) obey(ctx context.Context, o order) error {
	switch {
	case o.Start != nil:
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(o.Start.CA) {
			return errors.New("the order has no CA")
		}
		h.tls = &tls.Config{RootCAs: roots, ServerName: serverName, NextProtos: []string{"h2"}}
		for _, node := range o.Start.Nodes {
			s, err := standin.New(standin.Config{
				Address:  o.Start.Address,
				TLS:      h.tls,
				NodeID:   node,
				Contents: h.contents,
			})
			if err != nil {
				return err
			}
			h.standins = append(h.standins, s)
			h.group.Go(func() error {
				return again(ctx, func() error { return s.Run(ctx) })
			})
		}
	case o.Floor != "":
		for range h.standins {
			h.group.Go(func() error { return again(ctx, func() error { return bare(ctx, o.Floor, h.tls) }) })
		}
	}
	return nil
}

func (h *hosts) report() report {
	r := report{CPU: cpu()}
	for _, s := range h.standins {
		r.Bytes = append(r.Bytes, s.Bytes())
	}
	return r
}

// again runs f until ctx ends: a control plane that restarts ends all streams.
func again(ctx context.Context, f func() error) error {
	for {
		err := f()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			return fmt.Errorf("a stream ended without a reason")
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// bare is one stream of the floor: it answers each message with a small one.
func bare(ctx context.Context, address string, t *tls.Config) error {
	conn, err := standin.Dial(address, t)
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, floorMethod)
	if err != nil {
		return err
	}
	answer := make([]byte, 100)
	var got standin.Frame
	for {
		if err := s.RecvMsg(&got); err != nil {
			return err
		}
		if err := standin.Send(s, answer); err != nil {
			return err
		}
	}
}

const floorMethod = "/bench.Floor/Push"
