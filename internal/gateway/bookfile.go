package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

const (
	bookFile = "routes"
	// bookVersion begins the file's first line, which ends with the SHA-256 of the
	// rest: routes in JSON. A file of another version is not read.
	bookVersion = "dormouse-routes 1"
	maxBook     = 64 << 20
	// writeAfter is how often the file is written at most.
	writeAfter = time.Second
)

// written is a route as the file has it.
type written struct {
	Route
	// Here: its instance is on this host.
	Here bool `json:"here,omitempty"`
}

// encodeBook returns the file's content.
func encodeBook(routes []written) ([]byte, error) {
	body, err := json.Marshal(routes)
	if err != nil {
		return nil, fmt.Errorf("encoding the routes: %w", err)
	}
	return append(fmt.Appendf(nil, "%s %x\n", bookVersion, sha256.Sum256(body)), body...), nil
}

func decodeBook(data []byte) ([]written, error) {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok || !bytes.HasPrefix(head, []byte(bookVersion+" ")) {
		return nil, errors.New("it is of another version, or cut off")
	}
	if string(head) != fmt.Sprintf("%s %x", bookVersion, sha256.Sum256(body)) {
		return nil, errors.New("its checksum is wrong")
	}
	var routes []written
	if err := json.Unmarshal(body, &routes); err != nil {
		return nil, err
	}
	if len(routes) > maxRoutes {
		return nil, fmt.Errorf("it has more than %d routes", maxRoutes)
	}
	return routes, nil
}

// readBook reads the routes from the gateway's directory. A file that can't be
// used is as good as none, and said.
func (g *Gateway) readBook() []written {
	if g.o.Dir == "" {
		return nil
	}
	path := filepath.Join(g.o.Dir, bookFile)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var routes []written
	if err == nil {
		defer file.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(file, maxBook+1)); err == nil {
			routes, err = decodeBook(data)
		}
	}
	if err != nil {
		g.log.WithError(err).WithField("file", path).Warn("the copy of the routes can't be used: it is made anew from the database")
		return nil
	}
	return routes
}

// writeBook makes the file what the book is. After a crash at any moment it is
// as it was before or as it is now.
func (b *book) writeBook(dir string) error {
	b.mu.RLock()
	routes := make([]written, 0, len(b.byID))
	for _, e := range b.byID {
		routes = append(routes, written{e.route, e.here})
	}
	b.mu.RUnlock()
	slices.SortFunc(routes, func(x, y written) int {
		return strings.Compare(string(x.InstallationID), string(y.InstallationID))
	})
	data, err := encodeBook(routes)
	if err != nil {
		return err
	}
	if len(data) > maxBook {
		return fleet.Errorf(fleet.KindCapacity, "the routes take %d bytes, and the copy at most %d", len(data), maxBook)
	}
	return replaceFile(filepath.Join(dir, bookFile), data)
}

// replaceFile puts a file in the place of another, durably.
func replaceFile(path string, data []byte) (err error) {
	next := path + ".next" // left by a crash, it is overwritten
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next)
		}
	}()
	if _, err = file.Write(data); err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err = os.Rename(next, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// keepWritten writes the book when it has changed, and once more when ctx ends.
func (b *book) keepWritten(ctx context.Context) {
	if b.g.o.Dir == "" {
		return
	}
	failed := false
	write := func() {
		err := b.writeBook(b.g.o.Dir)
		if err != nil {
			if !failed {
				b.g.log.WithError(err).Warn("the copy of the routes can't be written: trying again")
			}
			signal(b.wrote)
		}
		failed = err != nil
	}
	for {
		select {
		case <-b.wrote:
			write()
		case <-ctx.Done():
		}
		if !wait(ctx, writeAfter) {
			break
		}
	}
	select {
	case <-b.wrote:
		write()
	default:
	}
}
