package codec

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Object is a mapping whose keys keep their order in JSON and in YAML. Values are nil, text, bool,
// json.Number, float64, []any or *Object; others are written as package json writes them.
type Object struct {
	keys   []string
	values []any
}

// Set adds a key, or replaces its value.
func (o *Object) Set(key string, value any) {
	if i := slices.Index(o.keys, key); i >= 0 {
		o.values[i] = value
		return
	}
	o.keys, o.values = append(o.keys, key), append(o.values, value)
}

// Lookup finds the value of a key.
func (o *Object) Lookup(key string) (any, bool) {
	if i := slices.Index(o.keys, key); i >= 0 {
		return o.values[i], true
	}
	return nil, false
}

// MarshalJSON writes the keys in their order, on one line.
func (o *Object) MarshalJSON() ([]byte, error) {
	w := jsonWriter{}
	err := w.object(o)
	return w.b, err
}

// IndentedJSON writes the keys in their order, as [json.Indent] lays them out with one space.
func (o *Object) IndentedJSON() ([]byte, error) {
	w := jsonWriter{indent: true}
	err := w.object(o)
	return w.b, err
}

// jsonWriter appends JSON to b. It writes everything once, where json.Marshaler would have each
// level of nesting read and copied again by the one above.
type jsonWriter struct {
	b      []byte
	indent bool
	depth  int
}

func (w *jsonWriter) object(o *Object) error {
	return w.list('{', '}', len(o.keys), func(i int) error {
		if err := w.text(o.keys[i]); err != nil {
			return err
		}
		w.b = append(w.b, ':')
		if w.indent {
			w.b = append(w.b, ' ')
		}
		return w.value(o.values[i])
	})
}

// list writes n items between brackets.
func (w *jsonWriter) list(open, end byte, n int, item func(i int) error) error {
	w.b = append(w.b, open)
	w.depth++
	for i := range n {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.newline()
		if err := item(i); err != nil {
			return err
		}
	}
	w.depth--
	if n > 0 {
		w.newline()
	}
	w.b = append(w.b, end)
	return nil
}

func (w *jsonWriter) newline() {
	if !w.indent {
		return
	}
	w.b = append(w.b, '\n')
	for range w.depth {
		w.b = append(w.b, ' ')
	}
}

func (w *jsonWriter) value(v any) error {
	switch v := v.(type) {
	case nil:
		w.b = append(w.b, "null"...)
	case bool:
		if v {
			w.b = append(w.b, "true"...)
		} else {
			w.b = append(w.b, "false"...)
		}
	case string:
		return w.text(v)
	case *Object:
		return w.object(v)
	case []any:
		return w.list('[', ']', len(v), func(i int) error { return w.value(v[i]) })
	default:
		return w.encode(v)
	}
	return nil
}

// text writes what needs no escapes as it is.
func (w *jsonWriter) text(s string) error {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return w.encode(s)
		}
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, s...)
	w.b = append(w.b, '"')
	return nil
}

// encode writes a value as package json does, but for the characters that it escapes for HTML.
func (w *jsonWriter) encode(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if !w.indent || len(text) == 0 || (text[0] != '{' && text[0] != '[') {
		w.b = append(w.b, text...)
		return nil
	}
	var laid bytes.Buffer
	prefix := string(bytes.Repeat([]byte(" "), w.depth))
	if err := json.Indent(&laid, text, prefix, " "); err != nil {
		return err
	}
	w.b = append(w.b, laid.Bytes()...)
	return nil
}
