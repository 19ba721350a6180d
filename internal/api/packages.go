package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) listPackages(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	packages, err := s.Store.ListPackages(r.Context(), p)
	if err != nil {
		return err
	}
	packages, next := cut(p, packages, func(p *fleet.Package) string { return string(p.ID) })
	items := make([]client.Package, len(packages))
	for i := range packages {
		items[i] = wirePackage(&packages[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Package]{Items: items, NextCursor: next})
}

func (s *server) getPackage(w http.ResponseWriter, r *http.Request) error {
	ref, err := packageRef(r)
	if err != nil {
		return err
	}
	p, err := s.Store.Package(r.Context(), ref)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wirePackage(&p))
}

// packageRef returns the ID, name or name@version in the path.
func packageRef(r *http.Request) (string, error) {
	ref := mux.Vars(r)["id"]
	if !fleet.ValidID(ref) && checkPackageRef(ref) != nil {
		return "", fleet.Errorf(fleet.KindNotFound, "there is no package %s", printable(ref))
	}
	return ref, nil
}

// createPackage takes a package in while it arrives. It is idempotent without
// a key: the same content under the same name and version is the same package.
func (s *server) createPackage(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	source, err := packageSource(query)
	if err != nil {
		return err
	}
	elsewhere := source.OCI != "" || len(source.Deb) > 0
	if elsewhere && r.Header.Get("Content-Type") == "" && r.ContentLength == 0 {
		r.Body = http.NoBody // no overlay either
	} else if err := checkContentType(r, packageTypes()); err != nil {
		return err
	}
	if _, err := s.idempotencyKey(r, nil); err != nil {
		return err
	}
	infoOf(r).waited = true
	p, err := s.takeIn(w, r, source)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/packages/"+string(p.ID))
	return writeJSON(w, http.StatusCreated, wirePackage(&p))
}

// takeIn imports the source and records the package. Content whose record is
// refused is let go again.
func (s *server) takeIn(w http.ResponseWriter, r *http.Request, source PackageSource) (fleet.Package, error) {
	var none fleet.Package
	ctx := r.Context()
	if err := s.content.Acquire(ctx, 1); err != nil {
		return none, err
	}
	held := true
	defer func() {
		if held {
			s.content.Release(1)
		}
	}()
	body := &watchedBody{
		r: http.MaxBytesReader(nil, r.Body, s.MaxPackageBytes), conn: http.NewResponseController(w), patience: s.Timeout,
	}
	source, err := source.from(r, body)
	var p fleet.Package
	if err == nil {
		p, err = s.Packages.Import(ctx, source)
	}
	if body.err != nil {
		// Whatever the importer made of it, the body is to blame.
		return none, bodyError(body.err)
	}
	if err != nil {
		return none, err
	}
	if p.ID == "" {
		p.ID = fleet.PackageID(s.NewID())
	}
	err = checkImported(p)
	if err == nil {
		var recorded fleet.Package
		if recorded, err = s.Store.CreatePackage(ctx, p); err == nil {
			if recorded.Kernel == p.Kernel {
				return recorded, nil
			}
			err = fleet.Errorf(fleet.KindConflict, "package %s@%s exists for the kernel %s: give the one for %s another version",
				p.Name, p.Version, recorded.Kernel, p.Kernel)
		}
	}
	s.content.Release(1)
	held = false
	s.letGo(ctx, p.Digest)
	return none, err
}

func checkImported(p fleet.Package) error {
	if !isPackageName(p.Name) || fleet.ValidID(p.Name) || !isPackageVersion(p.Version) {
		return fleet.Errorf(fleet.KindInvalid, "the package names itself %s@%s, which can't be: give ?name= and ?version=",
			printable(p.Name), printable(p.Version))
	}
	return nil
}

// deletePackage removes a package's record, and its content where no other
// package has the same.
func (s *server) deletePackage(w http.ResponseWriter, r *http.Request) error {
	ref, err := packageRef(r)
	if err != nil {
		return err
	}
	// The newest version of a name is another one when the request is repeated.
	if !fleet.ValidID(ref) && !strings.Contains(ref, "@") {
		return fleet.Errorf(fleet.KindInvalid, "say which version to delete: %s@VERSION, or the package's ID", ref)
	}
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
	p, err := s.Store.Package(r.Context(), ref)
	if err != nil {
		return err
	}
	if err := s.Store.DeletePackage(r.Context(), string(p.ID)); err != nil {
		return err
	}
	s.letGo(r.Context(), p.Digest)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// letGoTimeout bounds the search for another user of a content.
const letGoTimeout = 10 * time.Second

// letGo removes content that no recorded package has. It waits until no upload
// is under way, since an upload may be about to record the same content. What
// it can't finish stays: the next upload of the same content finds it.
func (s *server) letGo(ctx context.Context, digest string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGoTimeout)
	defer cancel()
	log := s.Log.WithField("digest", digest)
	if err := s.content.Acquire(ctx, maxUploads); err != nil {
		log.Warn("uploads are under way: the content of a package without a record is left where it is")
		return
	}
	defer s.content.Release(maxUploads)
	used, err := s.contentUsed(ctx, digest)
	if err == nil && !used {
		err = s.Packages.RemovePackage(digest)
	}
	if err != nil {
		log.WithError(err).Warn("the content of a package without a record is left where it is")
	}
}

func (s *server) contentUsed(ctx context.Context, digest string) (bool, error) {
	p := Page{Limit: maxLimit}
	for {
		packages, err := s.Store.ListPackages(ctx, p)
		if err != nil {
			return false, err
		}
		for i := range packages {
			if packages[i].Digest == digest {
				return true, nil
			}
		}
		if len(packages) < p.Limit {
			return false, nil
		}
		p.After = string(packages[len(packages)-1].ID)
	}
}
