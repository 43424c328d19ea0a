// Package wire reads encoded protocol buffers where making messages of them would cost too much.
package wire

import "google.golang.org/protobuf/encoding/protowire"

// Each calls f for each length-delimited field of a message, in the order in which they stand, and leaves
// the others out. It ends with f's first error, or with one that says how b is malformed.
func Each(b []byte, f func(num protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
