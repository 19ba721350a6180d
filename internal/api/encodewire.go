package api

import "dormouse/client"

// The fields below stand in the order of the structs in package client.

func (e *encoder) installation(v *client.Installation) {
	e.open()
	e.str("id", v.ID)
	e.str("name", v.Name)
	e.str("owner", v.Owner)
	e.str("state", v.State)
	e.optStr("state_reason", v.StateReason)
	e.optStr("state_detail", v.StateDetail)
	e.str("url", v.URL)
	list(e, "endpoints", v.Endpoints, e.endpoint)
	e.str("cluster", v.Cluster)
	e.str("package", v.Package)
	e.optStr("running_package", v.RunningPackage)
	e.optStr("verified_package", v.VerifiedPackage)
	e.num("memory_mib", int64(v.MemoryMiB))
	e.num("disk_mib", int64(v.DiskMiB))
	e.num("vcpus", int64(v.VCPUs))
	e.optMap("env", v.Env)
	e.optTexts("secret_names", v.SecretNames)
	e.optMap("labels", v.Labels)
	e.optTexts("dns_names", v.DNSNames)
	e.sleep(v.Idle, v.Wake)
	if v.NextSchedule != nil {
		e.reflected("next_schedule", v.NextSchedule)
	}
	e.optTime("last_active_at", v.LastActiveAt)
	e.optTime("awake_since", v.AwakeSince)
	e.optTime("asleep_since", v.AsleepSince)
	e.optNum("wakes", v.Wakes)
	e.optStr("group", v.Group)
	e.optNum("group_revision", v.GroupRevision)
	if v.Own != nil {
		e.name("own")
		e.own(v.Own)
	}
	if v.Instance != nil {
		e.name("instance")
		e.instance(v.Instance)
	}
	if v.Operation != nil {
		e.name("operation")
		e.operation(v.Operation)
	}
	e.num("generation", v.Generation)
	e.num("version", v.Version)
	e.time("created_at", v.CreatedAt)
	e.time("updated_at", v.UpdatedAt)
	e.close()
}

func (e *encoder) own(v *client.Own) {
	e.open()
	e.optStr("package", v.Package)
	e.optNum("memory_mib", int64(v.MemoryMiB))
	e.optNum("vcpus", int64(v.VCPUs))
	e.optMap("env", v.Env)
	e.sleep(v.Idle, v.Wake)
	e.close()
}

// sleep appends what is rare the long way.
func (e *encoder) sleep(idle *client.IdlePolicy, wake *client.WakeRules) {
	if idle != nil {
		e.reflected("idle", idle)
	}
	if wake != nil {
		e.reflected("wake", wake)
	}
}

func (e *encoder) endpoint(v *client.Endpoint) {
	e.open()
	e.num("port", int64(v.Port))
	e.str("protocol", v.Protocol)
	e.optStr("name", v.Name)
	e.optStr("url", v.URL)
	e.optStr("gateway_address", v.GatewayAddress)
	e.str("address", v.Address)
	e.close()
}

func (e *encoder) instance(v *client.Instance) {
	e.open()
	e.str("id", v.ID)
	e.optStr("host", v.Host)
	e.str("power", v.Power)
	e.optStr("image", v.Image)
	e.num("memory_mib", int64(v.MemoryMiB))
	e.num("restarts", int64(v.Restarts))
	if v.Exit != nil {
		e.name("exit")
		e.exit(v.Exit)
	}
	if v.Saved != nil {
		e.reflected("saved", v.Saved)
	}
	e.time("created_at", v.CreatedAt)
	e.close()
}

func (e *encoder) exit(v *client.Exit) {
	e.open()
	e.optStr("reason", v.Reason)
	e.num("code", int64(v.Code))
	e.optStr("signal", v.Signal)
	e.optTime("at", v.At)
	e.optTexts("last_lines", v.LastLines)
	e.close()
}

func (e *encoder) operation(v *client.Operation) {
	e.open()
	e.str("id", v.ID)
	e.str("kind", v.Kind)
	e.str("resource_type", v.ResourceType)
	e.str("resource_id", v.ResourceID)
	e.str("resource_name", v.ResourceName)
	e.str("state", v.State)
	e.optStr("step", v.Step)
	e.num("step_number", int64(v.StepNumber))
	e.num("steps_total", int64(v.StepsTotal))
	e.optTime("step_since", v.StepSince)
	list(e, "steps", v.Steps, e.step)
	e.num("attempt", int64(v.Attempt))
	e.optStr("wait_reason", v.WaitReason)
	e.optStr("wait_detail", v.WaitDetail)
	e.optStr("fail_reason", v.FailReason)
	e.optStr("error", v.Error)
	e.optTime("next_at", v.NextAt)
	e.optTime("step_deadline_at", v.StepDeadlineAt)
	e.optStr("executor", v.Executor)
	e.optStr("worker", v.Worker)
	e.optStr("rollout_id", v.RolloutID)
	e.num("revision", v.Revision)
	e.time("created_at", v.CreatedAt)
	e.optTime("started_at", v.StartedAt)
	e.optTime("finished_at", v.FinishedAt)
	e.close()
}

func (e *encoder) step(v *client.StepDone) {
	e.open()
	e.str("name", v.Name)
	e.time("started_at", v.StartedAt)
	e.time("finished_at", v.FinishedAt)
	e.num("number", int64(v.Number))
	e.num("attempts", int64(v.Attempts))
	e.close()
}
