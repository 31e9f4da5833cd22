// Package verify checks the files for Kubernetes that operators copy: the chart is linted and
// rendered by helm itself, and everything is decoded strictly into the types of those who read it.
//
//	deploy/helm/ratelimitd --helm lint, helm template--> manifests --> k8s.io/api, prometheus-operator
//	envoy/istio.yaml, envoy/contour.yaml ----------------------------> istio.io/api, projectcontour
//
// It is a module of its own, so that these types are no dependencies of ratelimitd. There is only
// test code: `make verify` runs it.
package verify
