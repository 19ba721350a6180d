package imagebuilder

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// provenanceName is the file in an image's directory that says how it came about.
const provenanceName = "provenance.json"

// statement is an in-toto statement (in-toto.io/Statement/v1) with SLSA's
// provenance predicate (slsa.dev/spec/v1.0/provenance). It has no times, so that
// the same build gives the same bytes.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version"`
		} `json:"builder"`
	} `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string            `json:"buildType"`
	ExternalParameters   map[string]string `json:"externalParameters"`
	ResolvedDependencies []subject         `json:"resolvedDependencies"`
}

// provenanceOf hashes the files of an image that has been built, and says what
// they were made from.
func provenanceOf(dir string, rec record, digests *Digests) ([]byte, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1", Subject: []subject{}}
	for _, n := range names {
		sum, err := digests.File(filepath.Join(dir, n.Name()))
		if err != nil {
			return nil, err
		}
		s.Subject = append(s.Subject, subject{Name: n.Name(), Digest: map[string]string{"sha256": sum}})
	}
	s.Predicate.BuildDefinition = buildDefinition{
		BuildType:          "urn:dormouse:image:" + string(rec.Kernel),
		ExternalParameters: map[string]string{"package": rec.PackageName + "@" + rec.PackageVersion, "kernel": string(rec.Kernel)},
		ResolvedDependencies: []subject{
			{URI: "urn:dormouse:package:" + rec.PackageName + "@" + rec.PackageVersion, Digest: map[string]string{"sha256": rec.PackageDigest}},
			{URI: "urn:dormouse:kernel:" + string(rec.Kernel), Digest: map[string]string{"sha256": rec.KernelDigest}},
		},
	}
	s.Predicate.RunDetails.Builder.ID = "urn:dormouse:imagebuilder"
	s.Predicate.RunDetails.Builder.Version = map[string]string{"imagebuilder": rec.BuilderVersion}
	return json.MarshalIndent(s, "", "  ")
}

// writeSynced writes a new file that all may read, out to disk.
func writeSynced(path string, body []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Chmod(0o644) // whatever the umask
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
