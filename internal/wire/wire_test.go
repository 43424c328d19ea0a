package wire_test

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meridian-mesh/meridian/internal/wire"
)

func TestEach(t *testing.T) {
	t.Parallel()

	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "one")
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), 300)
	b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), "three")

	var got []string
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		got = append(got, string(rune('0'+num))+string(v))
		return nil
	})
	if want := []string{"1one", "3three"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v and %v, want %v", got, err, want)
	}
	for n := range b {
		err := wire.Each(b[:n], func(protowire.Number, []byte) error { return nil })
		if whole := n == 0 || n == 5 || n == 8; (err == nil) != whole {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	bad := errors.New("bad")
	if err := wire.Each(b, func(protowire.Number, []byte) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("got %v, want the function's error", err)
	}
}
