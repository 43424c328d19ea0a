package bench

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/bench/standin"
)

// floor is what the same bytes cost without a mesh: bare gRPC streams over the same TLS to the same
// process, one message each, one small answer back.
type floor struct {
	mu      sync.Mutex
	streams []*bareStream // guarded by mu
	joined  chan struct{} // guarded by mu; closed at the next stream
}

type bareStream struct {
	push     chan []byte
	answered chan error
}

func (f *floor) serve(_ any, s grpc.ServerStream) error {
	b := &bareStream{push: make(chan []byte), answered: make(chan error, 1)}
	f.mu.Lock()
	f.streams = append(f.streams, b)
	if f.joined != nil {
		close(f.joined)
		f.joined = nil
	}
	f.mu.Unlock()
	for {
		select {
		case data := <-b.push:
			err := s.SendMsg(&data)
			if err == nil {
				var answer standin.Frame
				err = s.RecvMsg(&answer)
			}
			b.answered <- err
			if err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

// start pushes size bytes to each of n streams as it connects, and returns when the last has answered.
func (f *floor) start(ctx context.Context, n, size int) error {
	data, err := random(size)
	if err != nil {
		return err
	}
	for done := 0; done < n; {
		f.mu.Lock()
		streams := f.streams[done:]
		joined := f.joined
		if len(streams) == 0 && joined == nil {
			joined = make(chan struct{})
			f.joined = joined
		}
		f.mu.Unlock()
		for _, s := range streams {
			select {
			case s.push <- data:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if done += len(streams); len(streams) > 0 {
			continue
		}
		select {
		case <-joined:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.answers(ctx, n)
}

func (f *floor) answers(ctx context.Context, n int) error {
	f.mu.Lock()
	streams := f.streams[:n]
	f.mu.Unlock()
	for _, s := range streams {
		select {
		case err := <-s.answered:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// round pushes size bytes to each of n streams and returns when the last has answered.
func (f *floor) round(ctx context.Context, n, size int) (time.Duration, error) {
	data, err := random(size)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	streams := f.streams[:n]
	f.mu.Unlock()
	start := time.Now()
	for _, s := range streams {
		select {
		case s.push <- data:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	err = f.answers(ctx, n)
	return time.Since(start), err
}

func random(size int) ([]byte, error) {
	data := make([]byte, size)
	_, err := rand.Read(data)
	return data, err
}
