package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// Images are what has been built of packages where this process is.
type Images interface {
	// Images returns all, in the order of their IDs, those under way and those that failed lately too.
	Images(ctx context.Context) ([]fleet.Image, error)
	// Image returns one; KindNotFound where it is neither there nor being built.
	Image(id fleet.ImageID) (fleet.Image, error)
	// ImageOf names the image that the package has, or would have.
	ImageOf(ctx context.Context, p fleet.Package) (fleet.ImageID, error)
	// Ensure builds it where it is not there. The build goes on when ctx ends.
	Ensure(ctx context.Context, p fleet.Package) (fleet.ImageID, error)
	// RemoveImage refuses with KindNotAccepted while an instance runs it.
	RemoveImage(ctx context.Context, id fleet.ImageID) error
}

// ImageContents reads images. KindNotFound: there is no such image, or no such path in it.
type ImageContents interface {
	// ListFiles visits what lies at path and below, in order; with digests the SHA-256 of each file too.
	ListFiles(ctx context.Context, id fleet.ImageID, path string, digests bool, visit func(fleet.ImageFile) error) error
	// CopyFile writes a regular file to w, after its length has been told.
	CopyFile(ctx context.Context, id fleet.ImageID, path string, size func(int64), w io.Writer) error
	// Provenance returns how it came about, as an in-toto statement in JSON.
	Provenance(id fleet.ImageID) ([]byte, error)
	// BillOfMaterials writes what it is made of, as CycloneDX in JSON.
	BillOfMaterials(ctx context.Context, id fleet.ImageID, w io.Writer) error
	// Export writes a disk that boots by itself; begin is told the file's name before the first byte.
	Export(ctx context.Context, id fleet.ImageID, o fleet.ImageExport, begin func(fileName string), w io.Writer) error
}

var (
	imageID       = regexp.MustCompile(`^[0-9a-f]{64}$`)
	imageIDPrefix = regexp.MustCompile(`^[0-9a-f]{8,63}$`)
)

// image returns the ID of the image in the path: an ID, the begin of one, or a
// package, which stands for the image that it has now.
func (s *server) image(r *http.Request) (fleet.ImageID, error) {
	ref := mux.Vars(r)["id"]
	if imageID.MatchString(ref) {
		return fleet.ImageID(ref), nil
	}
	if imageIDPrefix.MatchString(ref) {
		id, err := s.imageByPrefix(r.Context(), ref)
		if id != "" || err != nil {
			return id, err
		}
	}
	if !fleet.ValidID(ref) && checkPackageRef(ref) != nil {
		return "", fleet.Errorf(fleet.KindNotFound, "there is no image %s: give an image's ID, the first 8 or more digits of one, or NAME@VERSION of a package", printable(ref))
	}
	p, err := s.Store.Package(r.Context(), ref)
	if err != nil {
		return "", err
	}
	return s.Images.ImageOf(r.Context(), p)
}

func (s *server) imageByPrefix(ctx context.Context, prefix string) (found fleet.ImageID, err error) {
	images, err := s.Images.Images(ctx)
	if err != nil {
		return "", err
	}
	for _, i := range images {
		if !strings.HasPrefix(string(i.ID), prefix) {
			continue
		}
		if found != "" {
			return "", fleet.Errorf(fleet.KindInvalid, "several images begin with %s: give more digits", prefix)
		}
		found = i.ID
	}
	return found, nil
}

func (s *server) listImages(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	images, err := s.Images.Images(r.Context())
	if err != nil {
		return err
	}
	from, taken := slices.BinarySearchFunc(images, fleet.ImageID(p.After), func(i fleet.Image, id fleet.ImageID) int {
		return strings.Compare(string(i.ID), string(id))
	})
	if taken && p.After != "" {
		from++
	}
	images, next := cut(p, images[from:min(len(images), from+p.Limit)], func(i *fleet.Image) string { return string(i.ID) })
	items := make([]client.Image, len(images))
	for n := range images {
		items[n] = wireImage(&images[n])
		items[n].Log = nil
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Image]{Items: items, NextCursor: next})
}

func (s *server) getImage(w http.ResponseWriter, r *http.Request) error {
	id, err := s.image(r)
	if err != nil {
		return err
	}
	i, err := s.Images.Image(id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireImage(&i))
}

// buildImage waits for the build, which goes on when the asker has gone.
func (s *server) buildImage(w http.ResponseWriter, r *http.Request) error {
	var in client.BuildImage
	m, _, err := decodeBody(r, &in, "application/json")
	if err == nil {
		err = m.noNull()
	}
	if err != nil {
		return err
	}
	if _, err := s.idempotencyKey(r, nil); err != nil {
		return err
	}
	if !fleet.ValidID(in.Package) {
		if err := checkPackageRef(in.Package); err != nil {
			return err
		}
	}
	p, err := s.Store.Package(r.Context(), in.Package)
	if err != nil {
		return err
	}
	infoOf(r).waited = true
	id, err := s.Images.Ensure(r.Context(), p)
	if err != nil {
		return err
	}
	i, err := s.Images.Image(id)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/images/"+string(id))
	return writeJSON(w, http.StatusOK, wireImage(&i))
}

func (s *server) deleteImage(w http.ResponseWriter, r *http.Request) error {
	body, err := emptyBody(r)
	if err != nil {
		return err
	}
	if _, err := s.idempotencyKey(r, body); err != nil {
		return err
	}
	if err := noVersion(r); err != nil {
		return err
	}
	id, err := s.image(r)
	if err != nil {
		return err
	}
	if err := s.Images.RemoveImage(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listImageFiles streams one JSON object a line, so that an image of any size can be listed.
func (s *server) listImageFiles(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	digests := query.Get("digests")
	if query.Has("digests") && digests != "true" && digests != "false" {
		return invalidQuery("digests", "it must be true or false")
	}
	id, err := s.image(r)
	if err != nil {
		return err
	}
	infoOf(r).waited = true
	begin := begunLater(w, "application/x-ndjson")
	lines := json.NewEncoder(begin)
	err = s.ImageContents.ListFiles(r.Context(), id, query.Get("path"), digests == "true", func(f fleet.ImageFile) error {
		return lines.Encode(client.ImageFile(f))
	})
	return s.ended(r, begin, err)
}

func (s *server) getImageContent(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	if query.Get("path") == "" {
		return invalidQuery("path", "name a file in the image")
	}
	id, err := s.image(r)
	if err != nil {
		return err
	}
	infoOf(r).waited = true
	begin := begunLater(w, "application/octet-stream")
	err = s.ImageContents.CopyFile(r.Context(), id, query.Get("path"), func(n int64) {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}, begin)
	return s.ended(r, begin, err)
}

func (s *server) getImageProvenance(w http.ResponseWriter, r *http.Request) error {
	id, err := s.image(r)
	if err != nil {
		return err
	}
	body, err := s.ImageContents.Provenance(id)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(body)
	return err
}

func (s *server) getImageBill(w http.ResponseWriter, r *http.Request) error {
	id, err := s.image(r)
	if err != nil {
		return err
	}
	infoOf(r).waited = true
	begin := begunLater(w, "application/json")
	return s.ended(r, begin, s.ImageContents.BillOfMaterials(r.Context(), id, begin))
}

func (s *server) exportImage(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	o := fleet.ImageExport{Format: query.Get("format")}
	for _, f := range []struct {
		name string
		into *int
		most int
	}{{"memory_mib", &o.MemoryMiB, 1 << 20}, {"vcpus", &o.VCPUs, 256}, {"volume_mib", &o.VolumeMiB, 1 << 20}} {
		if !query.Has(f.name) {
			continue
		}
		if *f.into, err = strconv.Atoi(query.Get(f.name)); err != nil || *f.into < 1 || *f.into > f.most {
			return invalidQuery(f.name, "it must be a number from 1 to %d", f.most)
		}
	}
	uefi := query.Get("uefi")
	if query.Has("uefi") && uefi != "true" && uefi != "false" {
		return invalidQuery("uefi", "it must be true or false")
	}
	o.UEFI = uefi == "true"
	id, err := s.image(r)
	if err != nil {
		return err
	}
	infoOf(r).waited = true
	begin := begunLater(w, "application/octet-stream")
	err = s.ImageContents.Export(r.Context(), id, o, func(name string) {
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	}, begin)
	return s.ended(r, begin, err)
}

// lateStart begins an answer with its first byte, so that an error that comes
// before it can be told as a problem.
type lateStart struct {
	w           http.ResponseWriter
	contentType string
	begun       bool
}

func begunLater(w http.ResponseWriter, contentType string) *lateStart {
	return &lateStart{w: w, contentType: contentType}
}

// Write implements io.Writer.
func (l *lateStart) Write(p []byte) (int, error) {
	l.begin()
	return l.w.Write(p)
}

func (l *lateStart) begin() {
	if l.begun {
		return
	}
	l.begun = true
	// A server that bounds its answers makes an exception for this one.
	_ = http.NewResponseController(l.w).SetWriteDeadline(time.Time{})
	l.w.Header().Set("Content-Type", l.contentType)
	l.w.WriteHeader(http.StatusOK)
}

// ended ends an answer: an error after the first byte cuts the connection, so
// that half of it is not taken for the whole.
func (s *server) ended(r *http.Request, l *lateStart, err error) error {
	switch {
	case err == nil:
		l.begin()
		return nil
	case !l.begun:
		l.w.Header().Del("Content-Length")
		return err
	}
	return s.cut(r, fmt.Errorf("reading an image: %w", err))
}

func wireImage(i *fleet.Image) client.Image {
	return client.Image{
		ID: string(i.ID), State: string(i.State), Kernel: string(i.Kernel), KernelDigest: i.KernelDigest,
		PackageName: i.PackageName, PackageVersion: i.PackageVersion, PackageDigest: i.PackageDigest, BuilderVersion: i.BuilderVersion,
		SizeBytes: i.SizeBytes, CreatedAt: i.CreatedAt, UsedAt: i.UsedAt,
		StartedAt: i.StartedAt, DoneBytes: i.DoneBytes, TotalBytes: i.TotalBytes, Log: i.Log, Detail: i.Detail,
	}
}
