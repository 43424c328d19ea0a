package envoybench

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/dataplane/relay"
	"github.com/meridian-mesh/meridian/internal/seal"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// socket is where the relay listens.
func socket(dir string) string { return filepath.Join(dir, "ads", "sock") }

// startRelay starts a relay in this process, as a launcher has one. stop ends it.
func (z *zone) startRelay(ctx context.Context, dir, token string) (stop func() error, err error) {
	// The zone of this process: its certificate is not what is measured.
	conn, err := grpc.NewClient("passthrough:///"+z.address+":"+strconv.Itoa(xdsPort),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		return nil, err
	}
	sealer, err := seal.New(bytes.Repeat([]byte{1}, seal.KeySize))
	if err != nil {
		return nil, err
	}
	cache, err := relay.OpenCache(relay.CacheConfig{Path: filepath.Join(dir, "cache"), Sealer: sealer})
	if err != nil {
		return nil, err
	}
	r, err := relay.New(relay.Config{
		Socket: socket(dir),
		Zone:   conn,
		Token:  func() string { return token },
		Cache:  cache,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() error {
		cancel()
		return errors.Join(<-done, conn.Close())
	}, nil
}

// changesEach is how many changes are made while an Envoy runs.
const changesEach = 20

// changes writes a policy again and again, and notes how long each took until Envoy had acknowledged it.
func (z *zone) changes(ctx context.Context, times *[]time.Duration) error {
	for range changesEach {
		z.timeout++
		began := time.Now()
		res, err := z.client.Put(ctx, z.policy(), client.PutOptions{Force: true})
		if err != nil {
			return err
		}
		answer, err := z.client.Wait(ctx, res.Revision, readyLimit)
		if err != nil {
			return err
		}
		if !answer.GetComplete() {
			return fmt.Errorf("envoy did not acknowledge revision %d: %v", res.Revision, answer)
		}
		*times = append(*times, time.Since(began))
	}
	return nil
}

// policy is one that changes the cluster and the route of the first service.
func (z *zone) policy() *mesh.Resource {
	timeout := durationpb.New(time.Minute + time.Duration(z.timeout)*time.Millisecond)
	to := &meshv1.MeshTimeout_To{
		TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: service(0)},
		Default:   &meshv1.MeshTimeout_Conf{ConnectionTimeout: timeout},
	}
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: mesh.DefaultMesh, Zone: "bench", Name: "change"},
		Spec: &meshv1.MeshTimeout{To: []*meshv1.MeshTimeout_To{to}},
	}
}
