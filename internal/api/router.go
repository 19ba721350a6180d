package api

import (
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/gorilla/mux"
	"golang.org/x/sync/semaphore"

	openapi "dormouse/api"
	"dormouse/internal/fleet"
)

// handlerFunc is a handler whose error becomes a problem document. It must
// not have written anything when it returns one.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// route is one row of the API: a method on a path in mux's template form.
type route struct {
	method, path string
	handle       handlerFunc
	// unbounded routes set their own deadlines: they stream or wait.
	unbounded bool
	// query are the parameters that the route knows; any other is refused.
	query []string
}

type server struct {
	Options
	document []byte
	metrics  *metrics
	// content orders uploads and deletions of packages: an upload takes one
	// of its maxUploads shares, a deletion all of them.
	content *semaphore.Weighted
	// encoders holds *encoder values that have grown to the size of a page.
	encoders sync.Pool
}

// maxUploads is how many packages are taken in at once; more wait.
const maxUploads = 8

func newServer(o Options) (*server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	document, err := openapi.JSON()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	return &server{Options: o, document: document, metrics: m, content: semaphore.NewWeighted(maxUploads)}, nil
}

// routes is the whole API. The OpenAPI document lists the same ones; a test compares.
func (s *server) routes() []route {
	const v1 = "/api/v1"
	pages := []string{"limit", "cursor"}
	return []route{
		{method: "GET", path: v1 + "/installations", handle: s.listInstallations,
			query: append([]string{"owner", "cluster", "group", "state", "label"}, pages...)},
		{method: "POST", path: v1 + "/installations", handle: s.createInstallation},
		{method: "GET", path: v1 + "/installations/{id}", handle: s.getInstallation},
		{method: "PATCH", path: v1 + "/installations/{id}", handle: s.updateInstallation},
		{method: "DELETE", path: v1 + "/installations/{id}", handle: s.deleteInstallation},
		{method: "POST", path: v1 + "/installations/{id}/hibernate", handle: s.hibernateInstallation},
		{method: "POST", path: v1 + "/installations/{id}/wake", handle: s.wakeInstallation},
		{method: "POST", path: v1 + "/installations/{id}/restart", handle: s.restartInstallation},
		{method: "POST", path: v1 + "/installations/{id}/clone", handle: s.cloneInstallation},
		{method: "POST", path: v1 + "/installations/{id}/retry", handle: s.retryInstallation},
		{method: "GET", path: v1 + "/installations/{id}/explain", handle: s.explainInstallation},
		{method: "GET", path: v1 + "/installations/{id}/traffic", handle: s.installationTraffic},
		{method: "GET", path: v1 + "/installations/{id}/logs", handle: s.installationLogs, unbounded: true,
			query: []string{"tail", "follow"}},
		{method: "GET", path: v1 + "/traffic", handle: s.listTraffic, query: []string{"limit"}},
		{method: "GET", path: v1 + "/groups", handle: s.listGroups, query: pages},
		{method: "POST", path: v1 + "/groups", handle: s.createGroup},
		{method: "GET", path: v1 + "/groups/{id}", handle: s.getGroup},
		{method: "PATCH", path: v1 + "/groups/{id}", handle: s.updateGroup},
		{method: "DELETE", path: v1 + "/groups/{id}", handle: s.deleteGroup},
		{method: "GET", path: v1 + "/groups/{id}/revisions", handle: s.listGroupRevisions, query: pages},
		{method: "POST", path: v1 + "/groups/{id}/rollouts", handle: s.createRollout},
		{method: "GET", path: v1 + "/rollouts", handle: s.listRollouts, query: append([]string{"group"}, pages...)},
		{method: "GET", path: v1 + "/rollouts/{id}", handle: s.getRollout, unbounded: true, query: []string{"wait", "version"}},
		{method: "GET", path: v1 + "/rollouts/{id}/explain", handle: s.explainRollout},
		{method: "GET", path: v1 + "/rollouts/{id}/members", handle: s.listRolloutMembers, query: append([]string{"state"}, pages...)},
		{method: "POST", path: v1 + "/rollouts/{id}/pause", handle: s.controlRollout(fleet.RolloutPause)},
		{method: "POST", path: v1 + "/rollouts/{id}/resume", handle: s.controlRollout(fleet.RolloutResume)},
		{method: "POST", path: v1 + "/rollouts/{id}/force", handle: s.controlRollout(fleet.RolloutForce)},
		{method: "POST", path: v1 + "/rollouts/{id}/cancel", handle: s.controlRollout(fleet.RolloutCancel)},
		{method: "POST", path: v1 + "/rollouts/{id}/rollback", handle: s.controlRollout(fleet.RolloutRollback)},
		{method: "POST", path: v1 + "/rollouts/{id}/retry", handle: s.controlRollout(fleet.RolloutRetry)},
		{method: "GET", path: v1 + "/clusters", handle: s.listClusters, query: pages},
		{method: "POST", path: v1 + "/clusters", handle: s.createCluster},
		{method: "GET", path: v1 + "/clusters/{id}", handle: s.getCluster},
		{method: "DELETE", path: v1 + "/clusters/{id}", handle: s.deleteCluster},
		{method: "POST", path: v1 + "/clusters/{id}/check", handle: s.checkCluster},
		{method: "GET", path: v1 + "/clusters/{id}/explain", handle: s.explainCluster},
		{method: "GET", path: v1 + "/clusters/{id}/hosts", handle: s.listHosts},
		{method: "GET", path: v1 + "/clusters/{id}/hosts/{host}", handle: s.getHost},
		{method: "DELETE", path: v1 + "/clusters/{id}/hosts/{host}", handle: s.removeHost},
		{method: "POST", path: v1 + "/clusters/{id}/hosts/{host}/cordon", handle: s.controlHost(fleet.HostCordon)},
		{method: "POST", path: v1 + "/clusters/{id}/hosts/{host}/uncordon", handle: s.controlHost(fleet.HostUncordon)},
		{method: "POST", path: v1 + "/clusters/{id}/hosts/{host}/drain", handle: s.drainHost},
		{method: "GET", path: v1 + "/packages", handle: s.listPackages, query: pages},
		{method: "POST", path: v1 + "/packages", handle: s.createPackage, unbounded: true,
			query: []string{"name", "version", "filename", "oci", "deb", "disk", "kernel", "force", "signature"}},
		{method: "GET", path: v1 + "/packages/{id}", handle: s.getPackage},
		{method: "DELETE", path: v1 + "/packages/{id}", handle: s.deletePackage},
		{method: "POST", path: v1 + "/packages/{id}/trace", handle: s.tracePackage, unbounded: true},
		{method: "GET", path: v1 + "/instances", handle: s.listInstances, query: append([]string{"installation", "cluster"}, pages...)},
		{method: "GET", path: v1 + "/instances/{id}", handle: s.getInstance},
		{method: "GET", path: v1 + "/kernels", handle: s.listKernels},
		{method: "POST", path: v1 + "/kernels", handle: s.addKernel, unbounded: true},
		{method: "GET", path: v1 + "/images", handle: s.listImages, query: pages},
		{method: "POST", path: v1 + "/images", handle: s.buildImage, unbounded: true},
		{method: "GET", path: v1 + "/images/{id}", handle: s.getImage},
		{method: "DELETE", path: v1 + "/images/{id}", handle: s.deleteImage},
		{method: "GET", path: v1 + "/images/{id}/files", handle: s.listImageFiles, unbounded: true, query: []string{"path", "digests"}},
		{method: "GET", path: v1 + "/images/{id}/content", handle: s.getImageContent, unbounded: true, query: []string{"path"}},
		{method: "GET", path: v1 + "/images/{id}/provenance", handle: s.getImageProvenance},
		{method: "GET", path: v1 + "/images/{id}/sbom", handle: s.getImageBill, unbounded: true},
		{method: "GET", path: v1 + "/images/{id}/export", handle: s.exportImage, unbounded: true,
			query: []string{"format", "memory_mib", "vcpus", "volume_mib", "uefi"}},
		{method: "GET", path: v1 + "/operations", handle: s.listOperations,
			query: append([]string{"resource", "state"}, pages...)},
		{method: "GET", path: v1 + "/operations/{id}", handle: s.getOperation, unbounded: true,
			query: []string{"wait", "revision"}},
		{method: "GET", path: v1 + "/operations/{id}/explain", handle: s.explainOperation},
		{method: "GET", path: v1 + "/openapi.json", handle: s.getDocument},
		{method: "GET", path: "/healthz", handle: s.healthz},
		{method: "GET", path: "/readyz", handle: s.readyz},
		{method: "GET", path: "/metrics", handle: s.showMetrics, unbounded: true},
	}
}

// handler joins the routes with everything that surrounds each request.
func (s *server) handler(routes []route) (http.Handler, error) {
	r, err := s.router(routes)
	if err != nil {
		return nil, err
	}
	return s.surround(r), nil
}

func (s *server) router(routes []route) (*mux.Router, error) {
	// A path is taken as it is: no redirect to a cleaned one.
	r := mux.NewRouter().SkipClean(true)
	for _, rt := range routes {
		if err := r.HandleFunc(rt.path, s.wrap(rt)).Methods(rt.method).GetError(); err != nil {
			return nil, fmt.Errorf("adding the route %s %s: %w", rt.method, rt.path, err)
		}
	}
	r.NotFoundHandler = s.wrap(route{path: "(none)", handle: noRoute})
	r.MethodNotAllowedHandler = s.wrap(route{path: "(method)", handle: func(w http.ResponseWriter, q *http.Request) error {
		w.Header()["Allow"] = []string{allowed(r, q)}
		return httpProblem(http.StatusMethodNotAllowed, "%s is not possible here: see the Allow header", printable(q.Method))
	}})
	return r, nil
}

func noRoute(_ http.ResponseWriter, r *http.Request) error {
	return httpProblem(http.StatusNotFound, "there is nothing at %s: /api/v1/openapi.json lists every path", printable(r.URL.Path))
}

// allowed lists the methods that a path has, as the Allow header wants it.
func allowed(router *mux.Router, r *http.Request) string {
	var list string
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		q := r.Clone(r.Context())
		q.Method = method
		var m mux.RouteMatch
		if router.Match(q, &m) && m.MatchErr == nil {
			if list != "" {
				list += ", "
			}
			list += method
		}
	}
	return list
}

// knowsQuery refuses parameters that the route does not have: a misspelt
// filter must not list everything.
func (rt route) knowsQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	for name, values := range query {
		if !slices.Contains(rt.query, name) {
			return invalidQuery(name, "there is no such query parameter here: %s", known(rt.query))
		}
		if len(values) > 1 && name != "label" && name != "deb" {
			return invalidQuery(name, "it is given %d times: give it once", len(values))
		}
	}
	return nil
}
