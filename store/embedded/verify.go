package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// Layout of a bbolt file, version 2: pages of one size, each with a header of 16 bytes (id 8, flags
// 2, count 2, overflow 4).
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagMeta   = 0x04

	leafBucket = 0x01
)

// pages walks a bbolt file with every bound checked. bbolt itself trusts pages: it panics, in part
// on goroutines of its own where the caller cannot recover, or reads beyond its memory.
type pages struct {
	r    io.ReaderAt
	size uint64 // of a page
	high uint64 // first page id beyond those in use
	used map[uint64]bool
}

// verifyPages says what is wrong with the structure of a bbolt file, if anything.
func verifyPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < 2*1024 {
		return fmt.Errorf("the file has only %d bytes", info.Size())
	}
	first := make([]byte, pageHeader+metaSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return err
	}
	size := uint64(binary.LittleEndian.Uint32(first[pageHeader+8:]))
	if size < 1024 || size > 64<<10 || size&(size-1) != 0 || uint64(info.Size()) < 2*size {
		return errors.New("the first header page is damaged")
	}
	second := make([]byte, pageHeader+metaSize)
	if _, err := f.ReadAt(second, int64(size)); err != nil {
		return err
	}
	a, err := readMeta(first, 0)
	if err != nil {
		return err
	}
	b, err := readMeta(second, 1)
	if err != nil {
		return err
	}
	if b.transaction > a.transaction {
		a = b
	}
	if a.high > uint64(info.Size())/size {
		return fmt.Errorf("the file is cut off: it has %d bytes and should have at least %d", info.Size(),
			a.high*size)
	}
	p := &pages{
		r:    f,
		size: size,
		high: a.high,
		used: map[uint64]bool{0: true, 1: true},
	}
	return p.walk(a.root, 0, nil, nil)
}

type metaPage struct{ root, high, transaction uint64 }

// readMeta reads a header page: magic 4, version 4, page size 4, flags 4, root 8, sequence 8,
// freelist 8, high 8, transaction 8, checksum 8.
func readMeta(b []byte, id uint64) (metaPage, error) {
	m := b[pageHeader:]
	h := fnv.New64a()
	_, _ = h.Write(m[:56])
	if binary.LittleEndian.Uint64(b) != id || binary.LittleEndian.Uint16(b[8:]) != flagMeta ||
		binary.LittleEndian.Uint64(m[56:]) != h.Sum64() {
		return metaPage{}, fmt.Errorf("header page %d is damaged", id)
	}
	return metaPage{
		root:        binary.LittleEndian.Uint64(m[16:]),
		high:        binary.LittleEndian.Uint64(m[40:]),
		transaction: binary.LittleEndian.Uint64(m[48:]),
	}, nil
}

// walk checks the tree below a page, whose keys must be at least low and below high; nil means no
// bound.
func (p *pages) walk(id uint64, depth int, low, high []byte) error {
	if depth > 64 {
		return fmt.Errorf("page %d is too deep", id)
	}
	if id >= p.high {
		return fmt.Errorf("page %d is beyond the end", id)
	}
	head := make([]byte, pageHeader)
	if _, err := p.r.ReadAt(head, int64(id*p.size)); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	overflow := uint64(binary.LittleEndian.Uint32(head[12:]))
	if overflow >= p.high-id {
		return fmt.Errorf("page %d runs beyond the end", id)
	}
	for i := range overflow + 1 {
		if p.used[id+i] {
			return fmt.Errorf("page %d is used twice", id+i)
		}
		p.used[id+i] = true
	}
	page := make([]byte, (overflow+1)*p.size)
	if _, err := p.r.ReadAt(page, int64(id*p.size)); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	if binary.LittleEndian.Uint64(page) != id {
		return fmt.Errorf("page %d says that it is another", id)
	}
	return p.elements(page, id, depth, low, high)
}

// elements checks a page's elements and walks what they lead to.
func (p *pages) elements(page []byte, id uint64, depth int, low, high []byte) error {
	flags, count := binary.LittleEndian.Uint16(page[8:]), uint64(binary.LittleEndian.Uint16(page[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return fmt.Errorf("page %d has the unknown flags %#x", id, flags)
	}
	length := uint64(len(page))
	if pageHeader+count*elementSize > length || (flags == flagBranch && count == 0) {
		return fmt.Errorf("page %d has a wrong count", id)
	}
	keys := make([][]byte, count)
	for i := range count {
		at := pageHeader + i*elementSize
		e := page[at : at+elementSize]
		var pos, keySize, valueSize uint64
		if flags == flagBranch {
			pos, keySize = uint64(binary.LittleEndian.Uint32(e)), uint64(binary.LittleEndian.Uint32(e[4:]))
		} else {
			pos, keySize, valueSize = uint64(binary.LittleEndian.Uint32(e[4:])),
				uint64(binary.LittleEndian.Uint32(e[8:])), uint64(binary.LittleEndian.Uint32(e[12:]))
		}
		if at+pos+keySize+valueSize > length || at+pos < pageHeader+count*elementSize {
			return fmt.Errorf("element %d of page %d is beyond the page", i, id)
		}
		key := page[at+pos : at+pos+keySize]
		if (i > 0 && bytes.Compare(keys[i-1], key) >= 0) || (low != nil && bytes.Compare(key, low) < 0) ||
			(high != nil && bytes.Compare(key, high) >= 0) {
			return fmt.Errorf("page %d is out of order", id)
		}
		keys[i] = key
		if flags == flagBranch {
			continue
		}
		switch kind := binary.LittleEndian.Uint32(e); kind {
		case 0:
		case leafBucket:
			value := page[at+pos+keySize : at+pos+keySize+valueSize]
			if err := p.bucket(value, id, depth); err != nil {
				return err
			}
		default:
			return fmt.Errorf("element %d of page %d has the unknown flags %#x", i, id, kind)
		}
	}
	if flags == flagBranch {
		for i := range count {
			next := high
			if i+1 < count {
				next = keys[i+1]
			}
			child := binary.LittleEndian.Uint64(page[pageHeader+i*elementSize+8:])
			if err := p.walk(child, depth+1, keys[i], next); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks a bucket's header (root 8, sequence 8) and its page, which is inline if the root is 0.
func (p *pages) bucket(value []byte, id uint64, depth int) error {
	if len(value) < 16 {
		return fmt.Errorf("a bucket of page %d is too short", id)
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return p.walk(root, depth+1, nil, nil)
	}
	inline := value[16:]
	if len(inline) < pageHeader || binary.LittleEndian.Uint16(inline[8:]) != flagLeaf {
		return fmt.Errorf("an inline bucket of page %d is damaged", id)
	}
	return p.elements(inline, id, depth+1, nil, nil)
}
