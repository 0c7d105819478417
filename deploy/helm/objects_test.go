package helm

// Whether the objects fit each other.

import (
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

func TestObjectsFitEachOther(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, given values) { checkObjects(t, decode(t, mustRender(t, given))) })
}

func checkObjects(t *testing.T, o *objects) {
	t.Helper()
	for name, pod := range o.pods() {
		checkPod(t, name, pod)
	}
	for name, d := range o.deployments {
		checkSelector(t, o, "Deployment "+name, d.Spec.Selector)
		if *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
			t.Errorf("Deployment %s may have two pods at a time, and its volume has one user", name)
		}
	}
	for name, s := range o.statefulSets {
		checkSelector(t, o, "StatefulSet "+name, s.Spec.Selector)
		if service := o.services[s.Spec.ServiceName]; service == nil || service.Spec.ClusterIP != corev1.ClusterIPNone {
			t.Errorf("StatefulSet %s: its pods have no names in %s", name, s.Spec.ServiceName)
		}
		if n := len(name) + len("-0123456789"); n > validation.LabelValueMaxLength {
			t.Errorf("StatefulSet %s: the name is too long for the label that Kubernetes makes of it", name)
		}
		want := appsv1.RollingUpdateStatefulSetStrategyType
		if roleOf(s.Spec.Template) == "gateway" {
			want = appsv1.OnDeleteStatefulSetStrategyType
		} else if s.Spec.MinReadySeconds < 10 {
			t.Errorf("StatefulSet %s: coordinators are updated faster than gateways find the next leader", name)
		}
		if s.Spec.UpdateStrategy.Type != want {
			t.Errorf("StatefulSet %s is updated by %s, want %s", name, s.Spec.UpdateStrategy.Type, want)
		}
	}
	for name, service := range o.services {
		if problems := validation.IsDNS1035Label(name); problems != nil {
			t.Errorf("Service %s: %v", name, problems)
		}
		pod, found := o.selected(service.Spec.Selector)
		if !found {
			t.Errorf("Service %s leads to no pod", name)
			continue
		}
		for _, port := range service.Spec.Ports {
			if portOf(pod, port.TargetPort.StrVal) == 0 {
				t.Errorf("Service %s leads to port %s, which pods do not have", name, port.TargetPort.StrVal)
			}
		}
		if service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			t.Errorf("Service %s: policies and limits do not see the addresses of peers", name)
		}
		if roleOf(pod) == "coordinator" && !service.Spec.PublishNotReadyAddresses {
			t.Errorf("Service %s: gateways do not find a coordinator that waits for them", name)
		}
	}
	for name, budget := range o.budgets {
		pod := checkSelector(t, o, "PodDisruptionBudget "+name, budget.Spec.Selector)
		want := 0 // whose end ends streams
		if roleOf(pod) == "coordinator" && len(o.deployments) == 0 {
			want = 1
		}
		if budget.Spec.MaxUnavailable.IntValue() != want {
			t.Errorf("PodDisruptionBudget %s: %v, want %d", name, budget.Spec.MaxUnavailable, want)
		}
		// A coordinator that is not ready still has what is live.
		if policy := budget.Spec.UnhealthyPodEvictionPolicy; (policy != nil && *policy == policyv1.AlwaysAllow) != (roleOf(pod) == "gateway") {
			t.Errorf("PodDisruptionBudget %s: pods that are not ready are evicted %v", name, policy)
		}
	}
	for name, claim := range o.claims {
		if claim.Annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s goes with the release, and undelivered events with it", name)
		}
	}
	checkLinks(t, o)
}

func checkPod(t *testing.T, name string, pod corev1.PodTemplateSpec) {
	t.Helper()
	security, container := pod.Spec.SecurityContext, pod.Spec.Containers[0]
	if len(pod.Annotations) > 0 {
		t.Errorf("%s: annotations %v make new pods", name, pod.Annotations)
	}
	if !*security.RunAsNonRoot || *security.RunAsUser == 0 || security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s may do more than it needs: %+v", name, security)
	}
	own := container.SecurityContext
	if *own.AllowPrivilegeEscalation || !*own.ReadOnlyRootFilesystem || !slices.Equal(own.Capabilities.Drop, []corev1.Capability{"ALL"}) || own.Capabilities.Add != nil {
		t.Errorf("%s may do more than it needs: %+v", name, own)
	}
	if *pod.Spec.AutomountServiceAccountToken || *pod.Spec.EnableServiceLinks {
		t.Errorf("%s is given what it does not need", name)
	}
	if *pod.Spec.TerminationGracePeriodSeconds < 15 {
		t.Errorf("%s has less than 15 s to stop", name)
	}
	ready := "/readyz"
	if roleOf(pod) == "gateway" {
		ready = "/livez" // without a coordinator peers must still find it
	}
	for probe, path := range map[*corev1.Probe]string{container.StartupProbe: "/livez", container.LivenessProbe: "/livez", container.ReadinessProbe: ready} {
		if probe.HTTPGet.Path != path || portOf(pod, probe.HTTPGet.Port.StrVal) == 0 {
			t.Errorf("%s is asked %s at %v, want %s", name, probe.HTTPGet.Path, probe.HTTPGet.Port, path)
		}
	}
	if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Cpu().IsZero() {
		t.Errorf("%s has no limit of memory, or asks for no processor", name)
	}
	volumes := map[string]bool{}
	for _, volume := range pod.Spec.Volumes {
		volumes[volume.Name] = true
		if volume.Projected != nil && *volume.Projected.DefaultMode != 0o440 || volume.Secret != nil && *volume.Secret.DefaultMode != 0o440 {
			t.Errorf("%s: %s can be read by others", name, volume.Name)
		}
	}
	for _, mount := range container.VolumeMounts {
		if !volumes[mount.Name] || mount.Name != "data" && !mount.ReadOnly || mount.SubPath != "" {
			t.Errorf("%s mounts %+v", name, mount)
		}
		delete(volumes, mount.Name)
	}
	for volume := range volumes {
		t.Errorf("%s does not mount %s", name, volume)
	}
	for _, spread := range pod.Spec.TopologySpreadConstraints {
		if diff := cmp.Diff(pod.Labels, spread.LabelSelector.MatchLabels); diff != "" {
			t.Errorf("%s is spread among others:\n%s", name, diff)
		}
		if honors := spread.NodeTaintsPolicy != nil && *spread.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor; spread.WhenUnsatisfiable == corev1.DoNotSchedule && !honors {
			t.Errorf("%s waits for machines that it may not run on", name)
		}
	}
	if strings.HasPrefix(name, "StatefulSet") && len(pod.Spec.TopologySpreadConstraints) == 0 {
		t.Errorf("%s: all pods may be on one machine", name)
	}
	for _, variable := range container.Env {
		if regexp.MustCompile(`SECRET|PASSWORD|TOKEN|CUSTOM|DATABASE_URL`).MatchString(variable.Name) && !strings.HasPrefix(variable.Value, "/secrets/") {
			t.Errorf("%s has %s in the clear", name, variable.Name)
		}
	}
}

// checkSelector wants a selector to be that of exactly one kind of pods.
func checkSelector(t *testing.T, o *objects, what string, selector *metav1.LabelSelector) corev1.PodTemplateSpec {
	t.Helper()
	pod, found := o.selected(selector.MatchLabels)
	if !found {
		t.Errorf("%s selects no pod", what)
	}
	if diff := cmp.Diff(pod.Labels, selector.MatchLabels); diff != "" {
		t.Errorf("%s selects (+) pods with (-):\n%s", what, diff)
	}
	return pod
}

// selected are the pods that labels select, of which there is one kind at most: roles and releases have labels of their own.
func (o *objects) selected(selector map[string]string) (corev1.PodTemplateSpec, bool) {
	for _, pod := range o.pods() {
		if labels.SelectorFromSet(selector).Matches(labels.Set(pod.Labels)) {
			return pod, true
		}
	}
	return corev1.PodTemplateSpec{}, false
}

func roleOf(pod corev1.PodTemplateSpec) string { return pod.Labels["app.kubernetes.io/component"] }

func portOf(pod corev1.PodTemplateSpec, name string) int32 {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == name {
				return port.ContainerPort
			}
		}
	}
	return 0
}

// checkLinks wants each URL of gateways to lead to coordinators, through the network policies.
func checkLinks(t *testing.T, o *objects) {
	t.Helper()
	var gateway, coordinator corev1.PodTemplateSpec
	replicas := 1
	for _, pod := range o.pods() {
		if roleOf(pod) == "gateway" {
			gateway = pod
		} else {
			coordinator = pod
		}
	}
	if gateway.Spec.Containers == nil {
		return
	}
	var bases string
	for _, variable := range gateway.Spec.Containers[0].Env {
		if variable.Name == "COORDINATOR_URL" {
			bases = variable.Value
		}
	}
	var set *appsv1.StatefulSet
	for _, s := range o.statefulSets {
		if roleOf(s.Spec.Template) == "coordinator" {
			set, replicas = s, int(*s.Spec.Replicas)
		}
	}
	all := strings.Split(bases, ",")
	if len(all) != replicas {
		t.Errorf("%d coordinators, and gateways ask %s", replicas, bases)
	}
	for _, base := range all {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		host, port := u.Hostname(), map[string]int32{"http": 80, "https": 443}[u.Scheme]
		if set != nil {
			pod, service, _ := strings.Cut(host, ".")
			if !strings.HasPrefix(pod, set.Name+"-") || service != set.Spec.ServiceName {
				t.Errorf("%s is no pod of %s", base, set.Name)
			}
			host, port = service, map[string]int32{"8080": 8080, "8443": 8443}[u.Port()]
		}
		service := o.services[host]
		if service == nil {
			t.Errorf("%s: there is no Service %s", base, host)
			continue
		}
		target := int32(0)
		for _, p := range service.Spec.Ports {
			if p.Port == port && p.Name == u.Scheme {
				target = portOf(coordinator, p.TargetPort.StrVal)
			}
		}
		if target == 0 {
			t.Errorf("%s: the Service %s has no such port", base, host)
		}
		if len(o.policies) > 0 && !(o.lets(t, gateway, coordinator, target)) {
			t.Errorf("%s: the network policies are in the way", base)
		}
	}
}

// lets tells whether one kind of pods may connect to a port of another one, both being in the release's namespace.
func (o *objects) lets(t *testing.T, from, to corev1.PodTemplateSpec, port int32) bool {
	t.Helper()
	out, in := o.policyOf(t, from), o.policyOf(t, to)
	return slices.ContainsFunc(out.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
		return matches(t, r.To, to.Labels) && hasPort(r.Ports, port)
	}) && slices.ContainsFunc(in.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
		return matches(t, r.From, from.Labels) && hasPort(r.Ports, port)
	})
}

func (o *objects) policyOf(t *testing.T, pod corev1.PodTemplateSpec) *networkingv1.NetworkPolicy {
	t.Helper()
	for _, policy := range o.policies {
		if selects(t, &policy.Spec.PodSelector, pod.Labels) {
			return policy
		}
	}
	t.Fatalf("no network policy is about pods with %v", pod.Labels)
	return nil
}

func selects(t *testing.T, selector *metav1.LabelSelector, given map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return s.Matches(labels.Set(given))
}

func matches(t *testing.T, peers []networkingv1.NetworkPolicyPeer, given map[string]string) bool {
	t.Helper()
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		return p.PodSelector != nil && p.NamespaceSelector == nil && selects(t, p.PodSelector, given)
	})
}

func hasPort(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port.IntVal == port })
}

// TestNetworkPoliciesLetInWhoIsNamed and nobody else: a rule without peers would be for everybody.
func TestNetworkPoliciesLetInWhoIsNamed(t *testing.T) {
	t.Parallel()
	all := modes(t)
	type rule struct{ who, ports string }
	describe := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) rule {
		text, err := json.Marshal(peers)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, p := range ports {
			protocol := ""
			if p.Protocol != nil {
				protocol = string(*p.Protocol) + " "
			}
			list = append(list, protocol+p.Port.String())
		}
		return rule{string(text), strings.Join(list, ",")}
	}
	const (
		namespace  = `[{"podSelector":{}}]`
		monitoring = `[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]`
		both       = "8080,8443"
	)
	pods := func(role string) string {
		return `[{"podSelector":{"matchLabels":{"app.kubernetes.io/component":"` + role + `","app.kubernetes.io/instance":"coordinator","app.kubernetes.io/name":"coordinator"}}}]`
	}
	dns := rule{"null", "UDP 53,TCP 53"}
	machines := rule{`[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}]`, both}
	for _, row := range []struct {
		mode, policy string
		in, out      []rule
	}{
		{"default", "coordinator", []rule{{namespace, both}, {namespace, both}, {monitoring, "8080"}}, []rule{dns, {namespace, ""}}},
		{"kubernetes-gateways", "coordinator", []rule{{pods("gateway"), both}, {namespace, both}, {namespace, both}, {monitoring, "8080"}}, []rule{dns, {namespace, ""}}},
		{"kubernetes-gateways", "gateway", []rule{{namespace, both}, {namespace, both}, {monitoring, "8080"}}, []rule{dns, {pods("coordinator"), both}}},
		{"database-takes-over", "coordinator", []rule{{pods("gateway"), both}, {namespace, both}, {namespace, both}, {monitoring, "8080"}}, []rule{dns, {namespace, ""}, {namespace, ""}}},
		{"everything", "cluster", []rule{{pods("gateway"), both}, {namespace, both}, {monitoring, "8080"}},
			[]rule{dns, {namespace, ""}, {`[{"podSelector":{"matchLabels":{"app":"postgresql"}},"namespaceSelector":{"matchLabels":{"name":"databases"}}}]`, ""}}},
		{"everything", "cluster-gateway", []rule{machines, {namespace, both}, {monitoring, "8080"}}, []rule{dns, {pods("coordinator"), both}}},
		{"basic", "coordinator", nil, []rule{dns}}, // nobody was named
	} {
		policy := decode(t, mustRender(t, all[row.mode])).policies[row.policy]
		if policy == nil {
			t.Errorf("%s: there is no policy %s", row.mode, row.policy)
			continue
		}
		if diff := cmp.Diff([]networkingv1.PolicyType{"Ingress", "Egress"}, policy.Spec.PolicyTypes); diff != "" {
			t.Errorf("%s %s: %s", row.mode, row.policy, diff)
		}
		var in, out []rule
		for _, r := range policy.Spec.Ingress {
			in = append(in, describe(r.From, r.Ports))
		}
		for _, r := range policy.Spec.Egress {
			out = append(out, describe(r.To, r.Ports))
		}
		if diff := cmp.Diff(row.in, in, cmp.AllowUnexported(rule{})); diff != "" {
			t.Errorf("%s: to %s may connect (-want +got):\n%s", row.mode, row.policy, diff)
		}
		if diff := cmp.Diff(row.out, out, cmp.AllowUnexported(rule{})); diff != "" {
			t.Errorf("%s: %s may connect to (-want +got):\n%s", row.mode, row.policy, diff)
		}
	}
	if o := decode(t, mustRender(t, all["open"])); len(o.policies) > 0 {
		t.Error("there are network policies that nobody wants")
	}
}

// TestEachModeMakesItsObjects and no others.
func TestEachModeMakesItsObjects(t *testing.T) {
	t.Parallel()
	one := []string{"Deployment coordinator", "NetworkPolicy coordinator", "PersistentVolumeClaim coordinator-data", "PodDisruptionBudget coordinator", "Service coordinator"}
	gateways := []string{"NetworkPolicy gateway", "PodDisruptionBudget gateway", "Service gateway", "Service gateways", "StatefulSet gateway"}
	all := modes(t)
	for mode, want := range map[string][]string{
		"default":             one,
		"kubernetes":          one,
		"kubernetes-gateways": slices.Concat(one, gateways),
		"kubernetes-high-availability": slices.Concat(gateways,
			[]string{"NetworkPolicy coordinator", "PodDisruptionBudget coordinator", "Service coordinators", "StatefulSet coordinator"}),
		"open": {"Deployment coordinator", "PersistentVolumeClaim coordinator-data", "Service coordinator"},
		"database-takes-over": {"Deployment coordinator", "NetworkPolicy coordinator", "NetworkPolicy coordinator-gateway", "PodDisruptionBudget coordinator",
			"PodDisruptionBudget coordinator-gateway", "PrometheusRule coordinator", "Service coordinator", "Service coordinator-gateway", "Service coordinator-gateways",
			"ServiceMonitor coordinator", "ServiceMonitor coordinator-gateway", "StatefulSet coordinator-gateway"},
		"everything": {"ConfigMap cluster-dashboard", "NetworkPolicy cluster", "NetworkPolicy cluster-gateway", "PodDisruptionBudget cluster", "PodDisruptionBudget cluster-gateway",
			"PrometheusRule cluster", "Service cluster", "Service cluster-gateway", "Service cluster-gateways", "Service clusters", "ServiceMonitor cluster",
			"ServiceMonitor cluster-gateway", "StatefulSet cluster", "StatefulSet cluster-gateway"},
	} {
		text := mustRender(t, all[mode])
		decode(t, text)
		var got []string
		for document := range strings.SplitSeq(text, "\n---\n") {
			var head metav1.PartialObjectMetadata
			if err := yaml.Unmarshal([]byte(document), &head); err != nil {
				t.Fatal(err)
			}
			got = append(got, head.Kind+" "+head.Name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
	}
}

// TestWhatIsWatchedIsWhatRulesName: each monitor finds one Service, and calls its job as alert rules and dashboard do.
func TestWhatIsWatchedIsWhatRulesName(t *testing.T) {
	t.Parallel()
	all := modes(t)
	named := regexp.MustCompile(`job=\\*"([^"\\]*)\\*"`)
	for _, mode := range []string{"database-takes-over", "everything"} {
		o := decode(t, mustRender(t, all[mode]))
		jobs := map[string]bool{}
		for name, monitor := range o.monitors {
			var found []*corev1.Service
			for _, service := range o.services {
				if selects(t, &monitor.Spec.Selector, service.Labels) {
					found = append(found, service)
				}
			}
			endpoint := monitor.Spec.Endpoints[0]
			if len(found) != 1 || !slices.ContainsFunc(found[0].Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == endpoint.Port }) {
				t.Fatalf("%s: ServiceMonitor %s finds %d Services, want 1 with port %s", mode, name, len(found), endpoint.Port)
			}
			if pod, _ := o.selected(found[0].Spec.Selector); roleOf(pod) == "gateway" && found[0].Spec.ClusterIP != corev1.ClusterIPNone {
				t.Errorf("%s: ServiceMonitor %s watches %s", mode, name, found[0].Name)
			}
			if endpoint.Path != "/metrics" || endpoint.RelabelConfigs[0].TargetLabel != "job" {
				t.Errorf("%s: ServiceMonitor %s: %+v", mode, name, endpoint)
			}
			jobs[*endpoint.RelabelConfigs[0].Replacement] = true
			hasToken := endpoint.Authorization != nil
			if isGateway := strings.HasSuffix(name, "-gateway"); hasToken == isGateway {
				t.Errorf("%s: ServiceMonitor %s shows a token: %v", mode, name, hasToken)
			}
		}
		for name, rule := range o.rules {
			text, err := json.Marshal(rule.Spec)
			if err != nil {
				t.Fatal(err)
			}
			checkJobs(t, mode+" "+name, named.FindAllStringSubmatch(string(text), -1), jobs)
			if len(rule.Spec.Groups) == 0 || len(rule.Spec.Groups[0].Rules) < 10 {
				t.Errorf("%s: %s has no rules", mode, name)
			}
		}
		for name, m := range o.configMaps {
			for file, text := range m.Data {
				if !json.Valid([]byte(text)) {
					t.Errorf("%s: %s of %s is no JSON", mode, file, name)
				}
				checkJobs(t, mode+" "+file, named.FindAllStringSubmatch(text, -1), jobs)
			}
		}
	}
	basic := decode(t, mustRender(t, all["basic"])).monitors["coordinator"].Spec.Endpoints[0].BasicAuth
	if basic == nil || basic.Username.Key != "user" || basic.Password.Key != "commands" {
		t.Errorf("with Basic Prometheus shows %+v", basic)
	}
}

func checkJobs(t *testing.T, where string, found [][]string, jobs map[string]bool) {
	t.Helper()
	got := map[string]bool{}
	for _, match := range found {
		got[match[1]] = true
	}
	if !maps.Equal(got, jobs) {
		t.Errorf("%s names jobs %v, and there are %v", where, got, jobs)
	}
}

// TestRulesAndDashboardAreThoseOfTheFiles: with the names of the files' jobs they are the same.
func TestRulesAndDashboardAreThoseOfTheFiles(t *testing.T) {
	t.Parallel()
	given := modes(t)["kubernetes-gateways"]
	given["prometheusRule"] = values{"enabled": true}
	given["grafanaDashboard"] = values{"enabled": true}
	o := decode(t, mustRender(t, given))
	read := func(file string) []byte {
		text, err := os.ReadFile(chartDir + "/files/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var want, got any
	if err := yaml.Unmarshal(read("prometheus-alerts.yml"), &want); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o.rules["coordinator"].Spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("alert rules (-file +chart):\n%s", diff)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(read("grafana-dashboard.json"))), strings.TrimSpace(o.configMaps["coordinator-dashboard"].Data["coordinator.json"])); diff != "" {
		t.Errorf("dashboard (-file +chart):\n%s", diff)
	}
}
