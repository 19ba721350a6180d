package tfs

import (
	"slices"
	"strconv"
)

// SectorSize is the unit in which a TFS counts, in bytes.
const SectorSize = 512

// Value is what an attribute may hold: a string, an int64, *Tuple, []Value
// (a vector), or Null. nil deletes the attribute in an update.
type Value any

// Null is the marker that flags such as readonly have for a value.
type Null struct{}

// Attr is a named value.
type Attr struct {
	Name  string
	Value Value
}

// Tuple is an ordered set of attributes: it is written in the order in which it was made.
type Tuple struct {
	attrs []Attr
	index map[string]int // by name; nil while the tuple is small
}

// manyAttrs is from when on a tuple is searched by a map.
const manyAttrs = 16

// NewTuple returns a tuple of these attributes; of two of one name the later counts.
func NewTuple(attrs ...Attr) *Tuple {
	t := &Tuple{}
	for _, a := range attrs {
		t.set(a.Name, a.Value)
	}
	return t
}

// Len is the number of attributes.
func (t *Tuple) Len() int { return len(t.attrs) }

// Attrs returns the attributes in the order of their names.
func (t *Tuple) Attrs() []Attr {
	sorted := slices.Clone(t.attrs)
	sortAttrs(sorted)
	return sorted
}

// Get returns the attribute's value; nil where there is none.
func (t *Tuple) Get(name string) Value {
	if i := t.find(name); i >= 0 {
		return t.attrs[i].Value
	}
	return nil
}

// Tuple returns the attribute where it is a tuple, else nil.
func (t *Tuple) Tuple(name string) *Tuple {
	sub, _ := t.Get(name).(*Tuple)
	return sub
}

// Int returns an attribute that is a number. Version 4 and OPS write numbers as
// decimal strings, which the kernel takes as well.
func (t *Tuple) Int(name string) (int64, bool) { return toInt(t.Get(name)) }

func toInt(v Value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// Strings returns an attribute that is a vector of strings, or a tuple of them
// named "0", "1" and so on, as version 4 has it.
func (t *Tuple) Strings(name string) []string {
	var all []string
	add := func(v Value) {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	switch v := t.Get(name).(type) {
	case []Value:
		for _, e := range v {
			add(e)
		}
	case *Tuple:
		for i := range v.Len() {
			add(v.Get(strconv.Itoa(i)))
		}
	}
	return all
}

// Map returns an attribute that is a tuple of strings.
func (t *Tuple) Map(name string) map[string]string {
	sub := t.Tuple(name)
	if sub == nil {
		return nil
	}
	m := make(map[string]string, sub.Len())
	for _, a := range sub.attrs {
		if s, ok := a.Value.(string); ok {
			m[a.Name] = s
		}
	}
	return m
}

func (t *Tuple) find(name string) int {
	if t.index != nil {
		if i, ok := t.index[name]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(t.attrs, func(a Attr) bool { return a.Name == name })
}

// set puts an attribute, or takes it away where v is nil.
func (t *Tuple) set(name string, v Value) {
	i := t.find(name)
	switch {
	case v == nil && i < 0:
	case v == nil:
		last := len(t.attrs) - 1
		t.attrs[i] = t.attrs[last]
		t.attrs[last] = Attr{}
		t.attrs = t.attrs[:last]
		if t.index != nil {
			delete(t.index, name)
			if i < last {
				t.index[t.attrs[i].Name] = i
			}
		}
	case i >= 0:
		t.attrs[i].Value = v
	default:
		t.attrs = append(t.attrs, Attr{name, v})
		if t.index != nil {
			t.index[name] = len(t.attrs) - 1
		} else if len(t.attrs) > manyAttrs {
			t.index = make(map[string]int, 2*len(t.attrs))
			for i, a := range t.attrs {
				t.index[a.Name] = i
			}
		}
	}
}

func sortAttrs(attrs []Attr) {
	slices.SortFunc(attrs, func(a, b Attr) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
}
