package e2e

// What operators get beside the program: alert rules and a dashboard have to fit what the daemon exposes.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

const (
	alertRules       = "../deploy/helm/coordinator/files/prometheus-alerts.yml"
	grafanaDashboard = "../deploy/helm/coordinator/files/grafana-dashboard.json"
)

// promtool runs Prometheus' own checker. It may be missing, but not where CI=true.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("promtool is missing: install Debian's package prometheus")
	} else if err != nil {
		t.Skip("promtool is not installed (Debian's package prometheus): alert rules and metrics stay unchecked")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAlertRulesAreValidAndFireWhenTheyShould(t *testing.T) {
	t.Parallel()
	promtool(t, "", "check", "rules", alertRules)
	promtool(t, "", "test", "rules", "../deploy/prometheus-alerts_test.yml")
}

func TestEachAlertIsTestedFiringAndSilent(t *testing.T) {
	t.Parallel()
	rules, cases := clustertest.ReadText(t, alertRules), clustertest.ReadText(t, "../deploy/prometheus-alerts_test.yml")
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 {
		t.Fatal("no alerts found")
	}
	for _, alert := range alerts {
		if !regexp.MustCompile(`- alertname: ` + alert[1] + `\n\s+eval_time: \w+\n\s+exp_alerts:`).MatchString(cases) {
			t.Errorf("%s is never tested to fire", alert[1])
		}
		if !strings.Contains(cases, "{alertname: "+alert[1]+",") {
			t.Errorf("%s is never tested to stay silent", alert[1])
		}
	}
}

// TestDocumentsSayWhatToDo holds the table of alerts about two coordinators against the rules, both ways.
func TestDocumentsSayWhatToDo(t *testing.T) {
	t.Parallel()
	_, section, _ := strings.Cut(clustertest.ReadText(t, "../docs/high-availability.md"), "\n## Alerts\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var told, wanted []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(section, -1) {
		told = append(told, row[1])
	}
	for _, rule := range strings.Split(clustertest.ReadText(t, alertRules), "- alert: ")[1:] {
		name, rest, _ := strings.Cut(rule, "\n")
		if strings.Contains(rest, "docs: docs/high-availability.md#alerts\n") {
			wanted = append(wanted, name)
		}
	}
	if diff := cmp.Diff(wanted, told); diff != "" || len(told) == 0 {
		t.Errorf("prometheus-alerts.yml (-) and high-availability.md (+):\n%s", diff)
	}
}

func TestMetricsFollowTheConventions(t *testing.T) {
	t.Parallel()
	d := daemonWithCertificate(t)
	_, exposition := d.Call("GET", "/metrics")
	promtool(t, exposition, "check", "metrics")
}

func TestAlertsAndDashboardNameOnlyWhatIsExposed(t *testing.T) {
	t.Parallel()
	var ofOne, ofDatabase []string
	shared := regexp.MustCompile(`coordinator_(leader|epoch|lease|database)`)
	for _, expression := range readExpressions(t) {
		if shared.MatchString(expression) {
			ofDatabase = append(ofDatabase, expression)
		} else {
			ofOne = append(ofOne, expression)
		}
	}
	t.Run("of one coordinator", func(t *testing.T) {
		t.Parallel()
		d := daemonWithCertificate(t)
		_, exposition := d.Call("GET", "/metrics")
		_, ofGateway := startDaemon(t, "GATEWAY_SECRET="+gatewaySecret, "COORDINATOR_URL=http://"+d.OwnAddr()).Call("GET", "/metrics")
		exposition += ofGateway[strings.Index(ofGateway, "# HELP gateway_"):]
		checkExposed(t, exposition, ofOne, 30)
	})
	t.Run("of coordinators with a database", func(t *testing.T) {
		t.Parallel()
		c := newReplicatedCluster(t)
		_, exposition := c.p.Call("GET", "/metrics")
		checkExposed(t, exposition, ofDatabase, 15)
	})
}

// checkExposed wants all that expressions name to be exposed, and not less than so many metrics to be named.
func checkExposed(t *testing.T, exposition string, expressions []string, atLeast int) {
	t.Helper()
	exposed := map[string]bool{} // names, and name{label="value" for each label
	for sample := range clustertest.Samples(t, exposition) {
		name, labels, _ := strings.Cut(sample, "{")
		exposed[name] = true
		for _, pair := range regexp.MustCompile(`\w+="[^"]*"`).FindAllString(labels, -1) {
			exposed[name+"{"+pair] = true
		}
	}
	named := 0
	reference := regexp.MustCompile(`\b((?:coordinator|gateway|go|process)_\w+)(?:\{([^}]*)\})?`)
	selector := regexp.MustCompile(`(\w+)[=!]~?"([^"]*)"`)
	for _, expression := range expressions {
		for _, ref := range reference.FindAllStringSubmatch(expression, -1) {
			named++
			if !exposed[ref[1]] {
				t.Errorf("%s is not exposed: %s", ref[1], expression)
			}
			for _, s := range selector.FindAllStringSubmatch(ref[2], -1) {
				if s[1] == "job" || s[1] == "instance" { // set by Prometheus
					continue
				}
				for value := range strings.SplitSeq(s[2], "|") {
					if pair := s[1] + `="` + value + `"`; !exposed[ref[1]+"{"+pair] {
						t.Errorf("%s has no %s: %s", ref[1], pair, expression)
					}
				}
			}
		}
	}
	if named < atLeast {
		t.Errorf("only %d metrics are named in %d expressions: are they found at all?", named, len(expressions))
	}
}

// readExpressions finds the expressions of all alerts and of all panels.
func readExpressions(t *testing.T) (expressions []string) {
	t.Helper()
	for _, rule := range strings.Split(clustertest.ReadText(t, alertRules), "- alert:")[1:] {
		_, expr, _ := strings.Cut(rule, "expr:")
		expr, _, _ = strings.Cut(expr, "labels: {severity")
		expressions = append(expressions, expr)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(clustertest.ReadText(t, grafanaDashboard)), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %q shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	return expressions
}

// daemonWithCertificate exposes all there is.
func daemonWithCertificate(t *testing.T) *clustertest.Daemon {
	t.Helper()
	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	return startDaemon(t, "SSL_PORT=0", "SSL_CERT="+filepath.Join(dir, "tls.crt"), "SSL_KEY="+filepath.Join(dir, "tls.key"))
}
