package codec

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"
)

// Both forms say what package json says of the same values.
func TestObjectJSON(t *testing.T) {
	t.Parallel()

	texts := []string{"", "plain", `quo"te`, `back\slash`, "<html> & more", "tab\tline\n", "\x00\x1f\x7f",
		"é", "\u2028", "bad\xff", "{}", "[1, 2]"}
	rnd := rand.New(rand.NewPCG(1, 2))
	var value func(depth int) any
	object := func(depth int) *Object {
		o := &Object{}
		for range rnd.IntN(4) {
			o.Set(texts[rnd.IntN(len(texts))], value(depth+1))
		}
		return o
	}
	value = func(depth int) any {
		n := 8
		if depth > 4 {
			n = 6
		}
		switch rnd.IntN(n) {
		case 0:
			return nil
		case 1:
			return rnd.IntN(2) == 0
		case 2:
			return json.Number("-12.5e3")
		case 3:
			return texts[rnd.IntN(len(texts))]
		case 4:
			return []string{"a", "b"}
		case 5:
			return json.RawMessage(`{"raw": {"deep": [1]}, "empty": {}}`)
		case 6:
			list := make([]any, rnd.IntN(3))
			for i := range list {
				list[i] = value(depth + 1)
			}
			return list
		}
		return object(depth)
	}

	for range 500 {
		o := object(0)
		got, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(plain(o)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(append(got, '\n'), want.Bytes()) {
			t.Fatalf("one line:\n got %s\nwant %s", got, want.Bytes())
		}

		laid, err := o.IndentedJSON()
		if err != nil {
			t.Fatal(err)
		}
		var wantLaid bytes.Buffer
		if err := json.Indent(&wantLaid, got, "", " "); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(laid, wantLaid.Bytes()) {
			t.Fatalf("indented:\n got %s\nwant %s", laid, wantLaid.Bytes())
		}
	}

	bad := &Object{}
	bad.Set("n", json.Number("no number"))
	if _, err := bad.MarshalJSON(); err == nil {
		t.Error("a number that is none was written")
	}
}

// plain is an Object whose keys package json writes in their order itself.
func plain(v any) any {
	switch v := v.(type) {
	case *Object:
		var b bytes.Buffer
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteByte(',')
			}
			for j, part := range []any{k, plain(v.values[i])} {
				if j > 0 {
					b.WriteByte(':')
				}
				enc := json.NewEncoder(&b)
				enc.SetEscapeHTML(false)
				if err := enc.Encode(part); err != nil {
					panic(err)
				}
				b.Truncate(b.Len() - 1)
			}
		}
		b.WriteByte('}')
		return json.RawMessage(b.Bytes())
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	}
	return v
}
