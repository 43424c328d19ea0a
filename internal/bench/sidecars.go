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

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// order is a line on the standard input of the sidecars' process; report is a line that answers one.
type order struct {
	// Start says where to connect; else the order asks for what came in.
	Start *startOrder `json:"start,omitempty"`
}

type startOrder struct {
	Address, Floor string
	CA             []byte
	Nodes          []string
}

type report struct {
	// Bytes that came in over ADS, by sidecar in the order of Nodes.
	Bytes []int `json:"bytes,omitempty"`
	// CPU seconds of the process.
	CPU float64 `json:"cpu"`
}

// Sidecars is the process of the stand-ins: it takes orders from in and answers on out until in ends.
func Sidecars(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	enc := json.NewEncoder(out)
	if !lines.Scan() {
		return errors.Join(errors.New("no order came"), lines.Err())
	}
	var first order
	if err := json.Unmarshal(lines.Bytes(), &first); err != nil || first.Start == nil {
		return fmt.Errorf("the first order is no start: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(first.Start.CA) {
		return errors.New("the order has no CA")
	}
	tlsConfig := &tls.Config{RootCAs: roots, ServerName: serverName, NextProtos: []string{"h2"}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	references := &xdstest.References{}
	clients := make([]*xdstest.Client, len(first.Start.Nodes))
	for i, node := range first.Start.Nodes {
		clients[i] = xdstest.New(xdstest.Config{Address: first.Start.Address, TLS: tlsConfig, NodeID: node, References: references, Light: true})
		group.Go(func() error { return clients[i].Run(ctx) })
		group.Go(func() error { return bare(ctx, first.Start.Floor, tlsConfig) })
	}
	// The goroutine ends with the input, which the parent closes.
	orders := make(chan error, 1)
	go func() {
		for lines.Scan() {
			r := report{CPU: cpu()}
			for _, c := range clients {
				r.Bytes = append(r.Bytes, c.Total().Bytes)
			}
			if err := enc.Encode(r); err != nil {
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

// bare is one stream of the floor: it answers each message with a small one.
func bare(ctx context.Context, address string, t *tls.Config) error {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(t)), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newRawCodec())), grpc.WithReadBufferSize(4<<10))
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, floorMethod)
	if err != nil {
		return ended(ctx, err)
	}
	answer := make([]byte, 100)
	for {
		var got []byte
		if err := s.RecvMsg(&got); err != nil {
			return ended(ctx, err)
		}
		if err := s.SendMsg(&answer); err != nil {
			return ended(ctx, err)
		}
	}
}

func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

const floorMethod = "/bench.Floor/Push"

// rawCodec carries bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

func newRawCodec() encoding.CodecV2 { return rawCodec{encoding.GetCodecV2(grpcproto.Name)} }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(*[]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*[]byte); ok {
		*b = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
