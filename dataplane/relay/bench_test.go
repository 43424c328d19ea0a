package relay

import (
	"context"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// BenchmarkCarry is a response of 10 kB and its answer, through a relay and without.
func BenchmarkCarry(b *testing.B) {
	for _, name := range []string{"relay", "direct"} {
		b.Run(name, func(b *testing.B) { carry(b, name == "relay") })
	}
}

func carry(b *testing.B, through bool) {
	z := startZone(b, "127.0.0.1:0")
	target := z.address
	if through {
		d, err := os.MkdirTemp("", "relay")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.RemoveAll(d) })
		target = "unix:" + startRelay(b, z.address, d).socket
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(func() { cancel(); _ = conn.Close() })
	s, err := (&Relay{cfg: Config{Zone: conn, Token: func() string { return "token" }}}).open(ctx)
	if err != nil {
		b.Fatal(err)
	}
	e := &envoy{ClientStream: s, end: cancel}
	e.send(b, asks(clusters))
	c := receive(b, "the stream", z.streams)
	c.receive(b)
	r := gives(clusters, "n", "a", strings.Repeat("v", 10<<10))
	for b.Loop() {
		c.send(b, r)
		e.send(b, answer(e.receive(b)))
		c.receive(b)
	}
}
