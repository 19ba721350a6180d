package main

// simulatorHelp is for whoever tries something out on a simulated cluster. A
// test compares it with what the simulator knows.
const simulatorHelp = `A cluster of provider sim has machines that exist only in the simulator's state.
It is for trying things out, tests and measurements.

Settings of the cluster, each given as --set KEY=VALUE to "cloudctl cluster create":

  hosts, memory_mib, disk_mib
       how many hosts there are, and what each of them has
  latency, boot_time, stop_time
       how long a call, a boot and a stop take: 20ms, 10ms..50ms, or
       p50=20ms,p99=200ms (log-normal)
  clones
       true or false: whether sleepers can be cloned, and so verified
  sleep
       true or false: whether a hibernation keeps the memory; else it is a stop
  seed
       what every draw depends on: the same seed, the same faults
  throttle_retry_after, background_time
       how long to wait after a throttled call; how long a failure in the
       background lasts

Faults, each with a probability from 0 to 1:

  fault.throttle, fault.error_before, fault.capacity
       refused, with nothing done
  fault.error_after, fault.lost_answer, fault.timeout_after
       done, and not answered so
  fault.not_found_after_create, fault.partial_list
       what is there is not shown
  fault.bad_end
       a boot or a stop that ends badly
  fault.wrong_health, fault.unknown_health
       of each look at an instance's health
  fault.observer_outage
       of each minute in which nobody's health can be told
  fault.background
       of each hour in which an installation is unhealthy for a while, whatever
       release it runs

How a release behaves is what its environment says in SIM_BEHAVIOUR: set it in the
package, or with --env on an installation. It takes words with ";" between them:

  crash              it ends while it boots
  slow=90s           healthy only that long after its boot
  fail_after=60s     healthy for that long, then unhealthy
  exit_after=60s     healthy for that long, then its program ends

and, to restrict it, any of:

  only_memory=256    only instances of that many MiB
  only_cluster=NAME  only in the cluster of that name or ID
  fraction=0.05      only that part of the installations, the same ones each time
  only_clone         only clones
  not_clone          all but clones
  only_wake          only where the installation had slept for a minute;
                     only_wake=10s for another time

  cloudctl cluster create test --provider sim --set boot_time=1s..3s --set fault.lost_answer=0.01
  cloudctl installation create a --owner o --package p --env 'SIM_BEHAVIOUR=crash;only_wake'

Several control planes share one simulator that runs by itself ("provisioner
simulator"), which also counts duplicates ("provisioner simulator ledger").
`
