"""The operator: OPDJob in, Kubernetes objects and a truthful status out. Never imports torch, ray or the runtime."""
