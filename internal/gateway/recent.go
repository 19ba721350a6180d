package gateway

import "container/list"

// recent is a bounded map that forgets what was used longest ago. It is not
// safe for concurrent use.
type recent[K comparable, V any] struct {
	limit   int
	entries map[K]*list.Element
	order   *list.List // of pair, the most recently used first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](limit int) recent[K, V] {
	return recent[K, V]{limit: limit, entries: make(map[K]*list.Element), order: list.New()}
}

func (r recent[K, V]) get(key K) (value V, ok bool) {
	element, ok := r.entries[key]
	if !ok {
		return value, false
	}
	r.order.MoveToFront(element)
	return element.Value.(pair[K, V]).value, true
}

func (r recent[K, V]) put(key K, value V) {
	r.remove(key)
	r.entries[key] = r.order.PushFront(pair[K, V]{key, value})
	if len(r.entries) > r.limit {
		r.remove(r.order.Back().Value.(pair[K, V]).key)
	}
}

func (r recent[K, V]) remove(key K) {
	if element, ok := r.entries[key]; ok {
		r.order.Remove(element)
		delete(r.entries, key)
	}
}
