package tfs

import (
	"fmt"
	"math/bits"
)

// Types of a value in version 5 (src/runtime/tuple.h); version 4 has the first two.
const (
	typeBuffer  = 0 // a name; as a value, null or nothing
	typeTuple   = 1
	typeVector  = 2
	typeInteger = 3
	typeString  = 4
)

// appendVarint appends a number in groups of 7 bits, the most significant
// first, with bit 7 set on all but the last.
func appendVarint(b []byte, n uint64) []byte {
	for shift := (max(bits.Len64(n), 1) - 1) / 7 * 7; shift > 0; shift -= 7 {
		b = append(b, byte(n>>shift)&0x7f|0x80)
	}
	return append(b, byte(n)&0x7f)
}

// appendHeader appends a value's header: immediate (1 bit), type (3 bits),
// extended (1 bit), and the first of the number's bits.
func appendHeader(b []byte, immediate bool, kind byte, n uint64) []byte {
	extra := (max(bits.Len64(n), 3) - 3 + 6) / 7
	first := kind << 4
	if immediate {
		first |= 0x80
	}
	if extra > 0 {
		first |= 1 << 3
	}
	if extra < 10 {
		first |= byte(n >> (7 * extra))
	}
	b = append(b, first)
	for i := extra - 1; i >= 0; i-- {
		g := byte(n>>(7*i)) & 0x7f
		if i > 0 {
			g |= 0x80
		}
		b = append(b, g)
	}
	return b
}

// encoder writes values in version 5 and hands out the dictionary's indices:
// to each immediate tuple, vector and name, in the order of first appearance.
type encoder struct {
	buf []byte
	// next is the index that the next entry of the dictionary gets.
	next uint64
	// names are those that this encoder has written.
	names map[string]uint64
	// known looks a name up that was written before; nil for a new log.
	known func(name string) (uint64, bool, error)
}

func newEncoder() *encoder { return &encoder{next: 1, names: map[string]uint64{}} }

// tuple begins a new tuple and returns its index.
func (e *encoder) tuple(count int) uint64 {
	e.buf = appendHeader(e.buf, true, typeTuple, uint64(count))
	e.next++
	return e.next - 1
}

// update begins a change of a tuple that the log has already.
func (e *encoder) update(index uint64, count int) {
	e.buf = appendHeader(e.buf, false, typeTuple, uint64(count))
	e.buf = appendVarint(e.buf, index)
}

// name writes an attribute's name: by its index where it has one. (A name that
// had two would confuse the kernel, which counts its dictionary by names.)
func (e *encoder) name(s string) error {
	i, ok := e.names[s]
	if !ok && e.known != nil {
		var err error
		if i, ok, err = e.known(s); err != nil {
			return err
		}
	}
	if ok {
		e.buf = appendHeader(e.buf, false, typeBuffer, i)
		return nil
	}
	e.names[s] = e.next
	e.next++
	e.buf = appendHeader(e.buf, true, typeBuffer, uint64(len(s)))
	e.buf = append(e.buf, s...)
	return nil
}

func (e *encoder) string(s string) {
	e.buf = appendHeader(e.buf, true, typeString, uint64(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) integer(n int64) {
	sign, magnitude := uint64(0), uint64(n)
	if n < 0 {
		sign, magnitude = 1, -uint64(n)
	}
	e.buf = appendHeader(e.buf, true, typeInteger, sign)
	e.buf = appendVarint(e.buf, magnitude)
}

// maxNesting bounds how deep values may lie in one another: a path may have
// 2048 components, each of which takes two levels.
const maxNesting = 4200

func (e *encoder) value(v Value, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("a value is nested more than %d deep", maxNesting)
	}
	switch v := v.(type) {
	case nil:
		e.buf = appendHeader(e.buf, true, typeBuffer, 0)
	case Null:
		e.buf = append(appendHeader(e.buf, true, typeBuffer, 1), 0)
	case string:
		e.string(v)
	case int64:
		e.integer(v)
	case []Value:
		e.buf = appendHeader(e.buf, true, typeVector, uint64(len(v)))
		e.next++
		for _, element := range v {
			if err := e.value(element, depth+1); err != nil {
				return err
			}
		}
	case *Tuple:
		e.tuple(v.Len())
		return e.attrs(v.attrs, depth)
	default:
		return fmt.Errorf("a value of the type %T can't be written", v)
	}
	return nil
}

func (e *encoder) attrs(attrs []Attr, depth int) error {
	for _, a := range attrs {
		if err := e.name(a.Name); err != nil {
			return err
		}
		if err := e.value(a.Value, depth+1); err != nil {
			return err
		}
	}
	return nil
}
