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

// pageLimit reads limit. One item more than the page holds is asked for, which
// tells whether another page follows without counting.
func pageLimit(query url.Values) (int, error) {
	if !query.Has("limit") {
		return defaultLimit + 1, nil
	}
	n, err := strconv.Atoi(query.Get("limit"))
	if err != nil || n < 1 || n > maxLimit {
		return 0, invalidQuery("limit", "it must be a number from 1 to %d", maxLimit)
	}
	return n + 1, nil
}

func invalidCursor() error {
	return invalidQuery("cursor", "it must be the next_cursor of an earlier page, unchanged")
}

// page reads limit and cursor.
func page(query url.Values) (p Page, err error) {
	if p.Limit, err = pageLimit(query); err != nil {
		return p, err
	}
	if query.Has("cursor") {
		id, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("cursor"))
		if err != nil || (!fleet.ValidID(string(id)) && !imageID.Match(id)) {
			return p, invalidCursor()
		}
		p.After = string(id)
	}
	return p, nil
}

// revisionPage reads limit and cursor of a list of revisions, whose cursor holds a number.
func revisionPage(query url.Values) (p Page, after fleet.RevisionNumber, err error) {
	if p.Limit, err = pageLimit(query); err != nil || !query.Has("cursor") {
		return p, 0, err
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("cursor"))
	n, bad := strconv.ParseInt(string(text), 10, 64)
	if err != nil || bad != nil || n < 1 {
		return p, 0, invalidCursor()
	}
	return p, fleet.RevisionNumber(n), nil
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
