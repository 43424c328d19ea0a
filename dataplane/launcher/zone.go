package launcher

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// window is what the zone may send before it is read, in bytes of a stream. The connection has room for
// several streams, so that an Envoy that does not read does not stop the session.
const (
	window           = 1 << 20
	connectionWindow = 4 * window
)

// dial makes the connection to the zone that the session and Envoy's configuration share. It is
// established when it is used, and again within a second while the zone can be reached.
func dial(address string, t *trust, version string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(t.conf)),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 5 * time.Second,
			Backoff: grpcbackoff.Config{
				BaseDelay:  firstPause,
				Multiplier: 1.6,
				Jitter:     0.3,
				MaxDelay:   time.Second,
			},
		}),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(connectionWindow),
		// A zone that died without a word, or a broken network, is noticed within this time.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:    10 * time.Second,
			Timeout: 5 * time.Second,
		}),
		grpc.WithUserAgent("meridian-dp/"+version))
	if err != nil {
		return nil, fmt.Errorf("--cp: %w", err)
	}
	return conn, nil
}

// tokenSource is the proxy's token at each moment.
type tokenSource struct {
	file string // empty: the token does not change

	mu   sync.Mutex
	last string
}

// get gives the token as it stands in the file now, or the last one if the file has none.
func (t *tokenSource) get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != "" {
		if data, err := os.ReadFile(t.file); err == nil && len(strings.TrimSpace(string(data))) > 0 {
			t.last = strings.TrimSpace(string(data))
		}
	}
	return t.last
}
