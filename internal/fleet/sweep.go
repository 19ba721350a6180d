package fleet

import "time"

// ExpectedInstance is what the store says of one instance, for the sweep to
// compare with the provider's list. It is small, because a sweep reads all of
// a cluster's at once.
type ExpectedInstance struct {
	ID               InstanceID
	InstallationID   InstallationID
	InstallationName string
	HostID           HostID
	ProviderRef      string
	Power            Power
	Serving          bool
	// OperationActive tells that an operation is at work on the installation:
	// what looks wrong may be on its way, and is left alone.
	OperationActive bool
	State           State
	// Rested is how long the installation's row had not been written when this was
	// read. It is by the database's clock alone: whoever asks may have another.
	Rested time.Duration
}

// ExpectedVolume is what the store says of one volume, for the sweep.
type ExpectedVolume struct {
	ID                 VolumeID
	InstallationID     InstallationID
	InstallationName   string
	HostID             HostID
	ProviderRef        string
	SizeMiB            int
	AttachedInstanceID InstanceID
	OperationActive    bool
	State              State
	// ChangedAt is when the installation's row was last written.
	ChangedAt time.Time
}

// Route is where the gateway finds an installation.
type Route struct {
	InstallationID InstallationID `json:"installation_id"`
	Name           string         `json:"name"`
	// DNSNames are the names besides NAME.DOMAIN under which it is reached, in lower case.
	DNSNames []string `json:"dns_names,omitempty"`
	State    State    `json:"state"`
	// InstanceID is the instance that serves, or the one that sleeps; HostID is
	// where it is. Empty where there is neither.
	InstanceID InstanceID `json:"instance_id,omitempty"`
	ClusterID  ClusterID  `json:"cluster_id,omitempty"`
	HostID     HostID     `json:"host_id,omitempty"`
	// Address is host:port of the serving instance's first HTTP port, or else of
	// its first port; empty while nothing serves.
	Address string `json:"address,omitempty"`
	// Moving: nothing serves because it is being moved to another host.
	Moving bool `json:"moving,omitempty"`
	// Ports are those that are reached by a port of the gateway's own.
	Ports []RoutePort `json:"ports,omitempty"`
	Wake  WakeRules   `json:"wake,omitzero"`
}

// RoutePort is a TCP port of the gateway that leads to a port of an installation.
type RoutePort struct {
	// Gateway is the gateway's port, Port the guest's.
	Gateway int `json:"gateway"`
	Port    int `json:"port"`
	// Address is host:port of the serving instance; empty while nothing serves.
	Address string `json:"address,omitempty"`
}

// FirstEndpoint returns where the gateway's URL leads: the first HTTP port, or
// else the first port; false where there is none.
func FirstEndpoint(endpoints []Endpoint) (Endpoint, bool) {
	for _, e := range endpoints {
		if e.Protocol == ProtocolHTTP {
			return e, true
		}
	}
	if len(endpoints) == 0 {
		return Endpoint{}, false
	}
	return endpoints[0], true
}
