"""A real Kubernetes control plane on this machine: etcd, API server, controllers, scheduler. Nodes are simulated.

`build` makes the programs from Debian's source package, `make k8s-live` runs the live suite against them.
"""
