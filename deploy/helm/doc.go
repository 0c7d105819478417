// Package helm holds the chart of the coordinator against Kubernetes and against the program.
// It is a module of its own, so that what it needs of Helm and Kubernetes stays out of the program:
//
//	go -C deploy/helm test ./...
//
// deploy/kubernetes*.yaml are rendered from the chart. After a change of it:
//
//	go -C deploy/helm test -run TestManifestsAreRenderedFromTheChart -update .
package helm
