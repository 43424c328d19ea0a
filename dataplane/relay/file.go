package relay

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meridian-mesh/meridian/internal/seal"
)

// file is the log of a cache; see the package comment. Its user serialises the calls.
type file struct {
	path   string
	sealer *seal.Sealer
	// identity of the proxy, which every frame is sealed for.
	identity [sha256.Size]byte

	f    *os.File
	id   [16]byte // of this file, random
	size int64
	// unfit says that what a failed append left could not be cut off: the file must be replaced.
	unfit bool
}

// header begins every file; its id follows.
const header = "meridian-dp cache 1\n"

const headerSize = int64(len(header) + 16)

// frameBytes is the size, in bytes, from which a frame is full; maxFrame is what a frame may have: one
// message of ADS and its seal.
const (
	frameBytes = 128 << 10
	maxFrame   = maxMessage + 1<<20
)

// Fields of a frame.
const (
	frameURL     protowire.Number = 1 // the type of those that follow
	frameBody    protowire.Number = 2
	frameRemoved protowire.Number = 3
	frameMore    protowire.Number = 4 // the batch goes on in the next frame
)

// record is one resource of a batch: its encoding, or that it is gone if body is nil.
type record struct {
	url, name string
	body      []byte
}

// place of a body: the offset of its frame in the file, and its own in the opened frame.
type place struct {
	frame int64
	start int
}

// create makes an empty file at path, which replaces one that is there.
func (f *file) create(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	handle, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if _, err := rand.Read(f.id[:]); err != nil {
		return errors.Join(err, handle.Close())
	}
	if _, err := handle.Write(append([]byte(header), f.id[:]...)); err != nil {
		return errors.Join(err, handle.Close())
	}
	f.f, f.size = handle, headerSize
	return nil
}

// open opens the file of an earlier launcher, or makes one, and gives each record in it, of batches that
// are complete, in the order in which they were written. It says how many bytes could not be used.
func (f *file) open(apply func(record, place)) (unused int64, err error) {
	handle, err := os.OpenFile(f.path, os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return 0, f.create(f.path)
	}
	if err != nil {
		return 0, err
	}
	info, err := handle.Stat()
	if err != nil {
		return 0, errors.Join(err, handle.Close())
	}
	var head [headerSize]byte
	if _, err := io.ReadFull(handle, head[:]); err != nil || string(head[:len(header)]) != header {
		return info.Size(), errors.Join(handle.Close(), f.create(f.path))
	}
	copy(f.id[:], head[len(header):])
	f.f, f.size = handle, headerSize

	type placed struct {
		record
		place
	}
	var batch []placed
	r := bufio.NewReader(handle)
	for at := headerSize; ; {
		plain, n, err := f.next(r, at)
		if err != nil {
			break // the end, or where the file can be read no further
		}
		more, err := scan(plain, func(rec record, start int) {
			rec.body = rec.body[:len(rec.body):len(rec.body)]
			batch = append(batch, placed{rec, place{at, start}})
		})
		if err != nil {
			break
		}
		at += n
		if more {
			continue
		}
		for _, p := range batch {
			apply(p.record, p.place)
		}
		batch, f.size = batch[:0], at
	}
	if unused = info.Size() - f.size; unused > 0 {
		err = handle.Truncate(f.size)
	}
	return unused, err
}

// next reads the frame at an offset and says how many bytes it has in the file.
func (f *file) next(r io.Reader, at int64) (plain []byte, n int64, err error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, 0, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxFrame {
		return nil, 0, fmt.Errorf("a frame of %d bytes", size)
	}
	sealed := make([]byte, size)
	if _, err := io.ReadFull(r, sealed); err != nil {
		return nil, 0, err
	}
	plain, err = f.sealer.Open(sealed, f.context(at))
	return plain, int64(len(length)) + int64(size), err
}

// context is what a frame at an offset is sealed for.
func (f *file) context(at int64) []byte {
	b := append(f.identity[:len(f.identity):len(f.identity)], f.id[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(at))
}

// frame reads the frame at an offset.
func (f *file) frame(at int64) ([]byte, error) {
	plain, _, err := f.next(io.NewSectionReader(f.f, at, f.size-at), at)
	return plain, err
}

// append writes a batch, or with more a part of one, and gives the place of each body. After an error the
// file is as it was, or unfit.
func (f *file) append(batch []record, more bool) ([]place, error) {
	places := make([]place, len(batch))
	at := f.size
	// A batch always has a last frame, though it may be empty.
	for i, last := 0, false; !last; {
		var plain []byte
		url := ""
		for ; i < len(batch) && (len(plain) == 0 || len(plain)+len(batch[i].body) < frameBytes); i++ {
			rec := batch[i]
			if rec.url != url {
				url = rec.url
				plain = appendField(plain, frameURL, []byte(url))
			}
			if rec.body == nil {
				plain = appendField(plain, frameRemoved, []byte(rec.name))
				continue
			}
			plain = appendField(plain, frameBody, rec.body)
			places[i] = place{frame: at, start: len(plain) - len(rec.body)}
		}
		if last = i == len(batch); more || !last {
			plain = appendField(plain, frameMore, nil)
		}
		sealed, err := f.sealer.Seal(plain, f.context(at))
		if err != nil {
			return nil, f.undo(err)
		}
		n, err := f.f.WriteAt(append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...), at)
		if err != nil {
			return nil, f.undo(err)
		}
		at += int64(n)
	}
	f.size = at
	return places, nil
}

// undo cuts off what a failed append left.
func (f *file) undo(err error) error {
	cut := f.f.Truncate(f.size)
	f.unfit = cut != nil
	return errors.Join(err, cut)
}

// replace puts next in the place of f.
func (f *file) replace(next *file) error {
	if err := errors.Join(next.f.Sync(), os.Rename(next.path, f.path)); err != nil {
		return err
	}
	_ = f.f.Close()
	f.f, f.id, f.size, f.unfit = next.f, next.id, next.size, false
	return nil
}

func (f *file) close() error { return f.f.Close() }

// scan gives the records of an opened frame with where their bodies start, and says whether its batch goes
// on.
func scan(plain []byte, give func(rec record, start int)) (more bool, err error) {
	url := ""
	for rest := plain; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return false, protowire.ParseError(n)
		}
		if typ != protowire.BytesType {
			return false, errors.New("a frame of another format")
		}
		v, m := protowire.ConsumeBytes(rest[n:])
		if m < 0 {
			return false, protowire.ParseError(m)
		}
		rest = rest[n+m:]
		switch num {
		case frameURL:
			url = string(v)
		case frameRemoved:
			give(record{url: url, name: string(v)}, 0)
		case frameMore:
			more = true
		case frameBody:
			res, err := parseResource(v)
			if err != nil {
				return false, err
			}
			give(record{url: url, name: res.name, body: v}, len(plain)-len(rest)-len(v))
		}
	}
	return more, nil
}
