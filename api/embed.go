package openapi

import (
	_ "embed"
	"fmt"

	"sigs.k8s.io/yaml"
)

//go:embed openapi.yaml
var document string

// YAML returns the OpenAPI 3.0.3 document as it is written.
func YAML() []byte { return []byte(document) }

// JSON returns the same document as JSON, as it is served. It fails only where
// the embedded document is not YAML, which a test rules out.
func JSON() ([]byte, error) {
	out, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		return nil, fmt.Errorf("converting the OpenAPI document to JSON: %w", err)
	}
	return out, nil
}
