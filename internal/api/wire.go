package api

import (
	"slices"
	"sort"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// wireInstallation shows an installation. Sealed secrets never leave: only
// their names do.
func (s *server) wireInstallation(v *InstallationView) client.Installation {
	out := client.Installation{
		ID: string(v.ID), Name: v.Name, Owner: v.Owner,
		State: string(v.State), StateReason: string(v.StateReason), StateDetail: v.StateDetail,
		URL: s.GatewayURL(v.Name), Cluster: v.ClusterName,
		Package: v.PackageRef, RunningPackage: v.RunningRef, VerifiedPackage: v.VerifiedRef,
		MemoryMiB: v.MemoryMiB, DiskMiB: v.DiskMiB, VCPUs: v.VCPUs,
		Env: v.Env, SecretNames: sortedKeys(v.Secrets), Labels: v.Labels,
		Group: v.GroupName, GroupRevision: int64(v.GroupRevision), Own: wireOwn(v),
		DNSNames: v.DNSNames, Idle: wireIdle(v.Idle), Wake: wireWake(v.Wake),
		LastActiveAt: v.LastActiveAt, AwakeSince: v.AwakeSince, AsleepSince: v.AsleepSince, Wakes: v.Wakes,
		Instance:   wireInstance(v.Instance, v.HostName),
		Generation: v.Generation, Version: v.Version, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt,
	}
	out.Endpoints = wireEndpoints(v, out.URL)
	if len(v.Idle.Schedules) > 0 && v.State != fleet.StateDeleted {
		out.NextSchedule = s.nextSchedule(v.Idle, s.Clock())
	}
	if v.Operation != nil {
		op := wireOperation(v.Operation)
		out.Operation = &op
	}
	return out
}

func sortedKeys(m map[string]string) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// wireEndpoints lists every port of the package, with the addresses at the gateway
// from the first day and its own where one has been observed, and then what was
// observed besides.
func wireEndpoints(v *InstallationView, url string) []client.Endpoint {
	var observed []fleet.Endpoint
	if v.Instance != nil {
		observed = v.Instance.Endpoints
	}
	all := make([]client.Endpoint, 0, max(len(v.Ports), len(observed)))
	host := urlHost(url)
	for _, p := range v.Ports {
		e := client.Endpoint{Port: p.Number, Protocol: string(p.Protocol), Name: p.Name}
		for _, o := range observed {
			if o.Port == p.Number {
				e.Address = o.Address
			}
		}
		if p.Protocol == fleet.ProtocolHTTP {
			e.URL, url = url, "" // which leads to the first of them
		}
		e.GatewayAddress = gatewayAddress(v, p.Number, host)
		all = append(all, e)
	}
	for _, o := range observed {
		if !slices.ContainsFunc(v.Ports, func(p fleet.Port) bool { return p.Number == o.Port }) {
			all = append(all, client.Endpoint{Port: o.Port, Protocol: string(o.Protocol), Name: o.Name, Address: o.Address})
		}
	}
	return all
}

func wireInstance(i *fleet.Instance, host string) *client.Instance {
	if i == nil {
		return nil
	}
	out := &client.Instance{
		ID: string(i.ID), Host: host, Power: string(i.Power), Image: string(i.Spec.Image),
		MemoryMiB: i.Spec.MemoryMiB, Restarts: i.Restarts, CreatedAt: i.CreatedAt,
	}
	out.Exit = wireExit(i.Exit)
	if i.Saved != nil {
		out.Saved = &client.Saved{Tier: string(i.Saved.Tier), Bytes: i.Saved.Bytes, At: i.Saved.At}
	}
	return out
}

func wireExit(x *fleet.Exit) *client.Exit {
	if x == nil {
		return nil
	}
	return &client.Exit{Reason: string(x.Reason), Code: x.Code, Signal: x.Signal, At: x.At, LastLines: x.LastLines}
}

func wireOperation(o *fleet.Operation) client.Operation {
	out := client.Operation{
		ID: string(o.ID), Kind: string(o.Kind), ResourceType: string(o.ResourceType),
		ResourceID: o.ResourceID, ResourceName: o.ResourceName, State: string(o.State),
		Step: o.Step, StepNumber: o.StepNumber, StepsTotal: o.StepsTotal, StepSince: o.StepSince,
		Steps: make([]client.StepDone, len(o.Steps)), Attempt: o.Attempt,
		FailReason: string(o.FailReason), Error: o.Error,
		Executor: o.Executor, Worker: string(o.Worker), Revision: o.Revision,
		CreatedAt: o.CreatedAt, StartedAt: o.StartedAt, FinishedAt: o.FinishedAt,
	}
	for i, d := range o.Steps {
		out.Steps[i] = client.StepDone{Name: d.Name, StartedAt: d.StartedAt, FinishedAt: d.FinishedAt, Number: d.Number, Attempts: d.Attempts}
	}
	if o.Rollout != nil {
		out.RolloutID = string(o.Rollout.ID)
	}
	if !o.State.Finished() {
		out.WaitReason, out.WaitDetail = string(o.WaitReason), o.WaitDetail
		out.NextAt, out.StepDeadlineAt = o.DueAt, o.StepDeadlineAt
	}
	return out
}

func wireCluster(v *ClusterView) client.Cluster {
	out := client.Cluster{
		ID: string(v.ID), Name: v.Name, Provider: string(v.Provider),
		State: string(v.State), StateReason: string(v.StateReason), StateDetail: v.StateDetail,
		Settings: v.Settings, AllowInstallations: v.AllowInstallations,
		Checks: make([]client.Check, len(v.Check.Items)), Hosts: make([]client.Host, len(v.Hosts)),
		CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt,
	}
	for i, c := range v.Check.Items {
		out.Checks[i] = client.Check{Name: c.Name, OK: c.OK, Detail: c.Detail, Mend: c.Mend}
	}
	for i, h := range v.Hosts {
		out.Hosts[i] = wireHost(&h)
	}
	if v.Operation != nil {
		op := wireOperation(v.Operation)
		out.Operation = &op
	}
	return out
}

func wirePackage(p *fleet.Package) client.Package {
	return client.Package{
		ID: string(p.ID), Name: p.Name, Version: p.Version, Digest: p.Digest, SizeBytes: p.SizeBytes,
		Kernel: string(p.Kernel), Program: p.Manifest.Program, Warnings: p.Warnings, Evidence: p.Evidence, CreatedAt: p.CreatedAt,
	}
}
