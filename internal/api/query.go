package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"dormouse/internal/fleet"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// invalidQuery is a KindInvalid error about a query parameter.
func invalidQuery(name, format string, args ...any) error {
	return fleet.InvalidField("query."+printable(name), "query parameter %s: %s", printable(name), fmt.Sprintf(format, args...))
}

func parseQuery(r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "the query part of the address is malformed: escape its special characters")
	}
	return query, nil
}

// page reads limit and cursor. One item more than the page holds is asked for,
// which tells whether another page follows without counting.
func page(query url.Values) (Page, error) {
	p := Page{Limit: defaultLimit}
	if query.Has("limit") {
		n, err := strconv.Atoi(query.Get("limit"))
		if err != nil || n < 1 || n > maxLimit {
			return p, invalidQuery("limit", "it must be a number from 1 to %d", maxLimit)
		}
		p.Limit = n
	}
	p.Limit++
	if query.Has("cursor") {
		id, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("cursor"))
		if err != nil || !fleet.ValidID(string(id)) {
			return p, invalidQuery("cursor", "it must be the next_cursor of an earlier page, unchanged")
		}
		p.After = string(id)
	}
	return p, nil
}

// cut takes a page off what the store returned for p, and makes the cursor for
// what follows; "" on the last page.
func cut[T any](p Page, items []T, id func(*T) string) ([]T, string) {
	if len(items) < p.Limit {
		return items, ""
	}
	items = items[:p.Limit-1]
	return items, base64.RawURLEncoding.EncodeToString([]byte(id(&items[len(items)-1])))
}

// labels reads every label=KEY=VALUE.
func labels(query url.Values) (map[string]string, error) {
	if !query.Has("label") {
		return nil, nil
	}
	wanted := map[string]string{}
	for _, pair := range query["label"] {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || checkLabel("label", k, v) != nil {
			return nil, invalidQuery("label", "it must have the form KEY=VALUE")
		}
		if old, twice := wanted[k]; twice && old != v {
			return nil, invalidQuery("label", "the label %s is asked for with two values: nothing can have both", k)
		}
		wanted[k] = v
	}
	return wanted, nil
}
