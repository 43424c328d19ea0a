package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// beginsAsJSON says that a stream begins as a JSON object does.
func beginsAsJSON(data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n")
	return len(data) > 0 && data[0] == '{'
}

// firstValue is the first JSON value of a stream, or nil.
func firstValue(data []byte) []byte {
	var raw json.RawMessage
	if json.NewDecoder(bytes.NewReader(data)).Decode(&raw) != nil {
		return nil
	}
	return raw
}

// parseJSON reads JSON values one after the other as nodes, so that one walk serves both languages.
// JSON is not read as YAML since YAML refuses tabs and surrogate pairs.
func parseJSON(data []byte) ([]*yaml.Node, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	p := &jsonParser{data: data, dec: dec}
	var nodes []*yaml.Node
	for {
		n, err := p.value(0)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nodes, fmt.Errorf("not valid JSON: %w", err)
		}
		if !isNull(n) {
			nodes = append(nodes, n)
		}
	}
}

type jsonParser struct {
	data []byte
	dec  *json.Decoder
	// line of offset, so that lines are counted once.
	line, offset int
}

func (p *jsonParser) at() int {
	end := min(int(p.dec.InputOffset()), len(p.data))
	p.line += bytes.Count(p.data[p.offset:end], []byte("\n"))
	p.offset = end
	return p.line + 1
}

var errDepth = errors.New("nested too deep")

func (p *jsonParser) value(depth int) (*yaml.Node, error) {
	if depth > 4*maxDepth {
		return nil, errDepth
	}
	token, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: p.at()}
	switch t := token.(type) {
	case nil:
		n.Tag = "!!null"
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(t)
	case string:
		n.Tag, n.Value = "!!str", t
	case json.Number:
		n.Tag, n.Value = "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for p.dec.More() {
			child, err := p.value(depth + 1)
			if err != nil {
				return nil, noEOF(err)
			}
			n.Content = append(n.Content, child)
		}
		if _, err := p.dec.Token(); err != nil {
			return nil, noEOF(err)
		}
	}
	return n, nil
}

// noEOF turns the end of input within a value into an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
