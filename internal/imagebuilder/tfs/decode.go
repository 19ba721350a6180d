package tfs

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrDamaged is wrapped by every error about what a file system holds, as
// opposed to errors of reading it.
var ErrDamaged = errors.New("the TFS is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// maxValues bounds the values of a log. The largest package has 200,000 files
// of about 20 values each.
const maxValues = 8 << 20

// decoder replays the values of a log.
type decoder struct {
	old    bool // version 4
	dict   []any
	values int
	in     []byte
}

// record replays one value, which must be a tuple.
func (d *decoder) record(in []byte, old bool) error {
	d.in, d.old = in, old
	v, err := d.value(0)
	if err != nil {
		return err
	}
	if _, ok := v.(*Tuple); !ok {
		return damaged("a record of the log is no tuple")
	}
	if len(d.in) > 0 {
		return damaged("%d bytes follow a record's value", len(d.in))
	}
	return nil
}

func (d *decoder) byte() (byte, error) {
	if len(d.in) == 0 {
		return 0, damaged("a value is cut short")
	}
	b := d.in[0]
	d.in = d.in[1:]
	return b, nil
}

func (d *decoder) bytes(n uint64) (string, error) {
	if n > uint64(len(d.in)) {
		return "", damaged("a value of %d bytes is cut short", n)
	}
	s := string(d.in[:n])
	d.in = d.in[n:]
	return s, nil
}

// groups reads the number that continues n in groups of 7 bits.
func (d *decoder) groups(n uint64) (uint64, error) {
	for {
		b, err := d.byte()
		if err != nil {
			return 0, err
		}
		if n>>57 != 0 {
			return 0, damaged("a number has more than 64 bits")
		}
		n = n<<7 | uint64(b&0x7f)
		if b&0x80 == 0 {
			return n, nil
		}
	}
}

func (d *decoder) header() (immediate bool, kind byte, n uint64, err error) {
	b, err := d.byte()
	if err != nil {
		return false, 0, 0, err
	}
	more := byte(1 << 3)
	kind, n = b>>4&7, uint64(b&7)
	if d.old {
		more = 1 << 5
		kind, n = b>>6&1, uint64(b&0x1f)
	}
	if b&more != 0 {
		n, err = d.groups(n)
	}
	return b&0x80 != 0, kind, n, err
}

// refer returns an entry of the dictionary.
func (d *decoder) refer(index uint64) (any, error) {
	if index == 0 || index > uint64(len(d.dict)) {
		return nil, damaged("the entry %d of the dictionary is not there yet", index)
	}
	return d.dict[index-1], nil
}

func (d *decoder) name() (string, error) {
	immediate, kind, n, err := d.header()
	if err != nil {
		return "", err
	}
	if kind != typeBuffer {
		return "", damaged("a name has the type %d", kind)
	}
	if immediate {
		s, err := d.bytes(n)
		d.dict = append(d.dict, s)
		return s, err
	}
	v, err := d.refer(n)
	if err != nil {
		return "", err
	}
	s, ok := v.(string)
	if !ok {
		return "", damaged("the entry %d of the dictionary is no name", n)
	}
	return s, nil
}

func (d *decoder) value(depth int) (Value, error) {
	if depth > maxNesting {
		return nil, damaged("values are nested more than %d deep", maxNesting)
	}
	if d.values++; d.values > maxValues {
		return nil, damaged("the log has more than %d values", maxValues)
	}
	immediate, kind, n, err := d.header()
	if err != nil {
		return nil, err
	}
	switch kind {
	case typeTuple:
		return d.tuple(immediate, n, depth)
	case typeVector:
		return d.vector(immediate, n, depth)
	case typeInteger:
		magnitude, err := d.groups(0)
		if err != nil {
			return nil, err
		}
		if magnitude > 1<<63-1 {
			// The kernel keeps times as unsigned numbers of 64 bits; nothing here reads them.
			return strconv.FormatUint(magnitude, 10), nil
		}
		if n > 0 {
			return -int64(magnitude), nil
		}
		return int64(magnitude), nil
	case typeBuffer, typeString:
		if !immediate {
			return nil, damaged("a string that refers to another can't be")
		}
		s, err := d.bytes(n)
		switch {
		case err != nil:
			return nil, err
		case kind == typeBuffer && n == 0:
			return nil, nil
		case kind == typeBuffer && s == "\x00":
			return Null{}, nil
		}
		return s, nil
	}
	return nil, damaged("a value has the unknown type %d", kind)
}

func (d *decoder) tuple(immediate bool, count uint64, depth int) (Value, error) {
	t := &Tuple{}
	if immediate {
		d.dict = append(d.dict, t)
	} else {
		index, err := d.groups(0)
		if err != nil {
			return nil, err
		}
		v, err := d.refer(index)
		if err != nil {
			return nil, err
		}
		known, ok := v.(*Tuple)
		if !ok {
			return nil, damaged("the entry %d of the dictionary is no tuple", index)
		}
		t = known
	}
	for range count { // each takes two bytes at least: the input bounds it
		name, err := d.name()
		if err != nil {
			return nil, err
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		t.set(name, v)
	}
	return t, nil
}

// vectorRef is a vector in the dictionary. The kernel never changes one in an
// update; what would is refused.
type vectorRef struct{}

func (d *decoder) vector(immediate bool, count uint64, depth int) (Value, error) {
	if !immediate {
		return nil, damaged("a vector that is changed later can't be read")
	}
	d.dict = append(d.dict, vectorRef{})
	var all []Value
	for range count {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	if all == nil {
		all = []Value{}
	}
	return all, nil
}
