package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// By status alone: a label for the prefix would grow without bound.
var instancesDesc = prometheus.NewDesc(
	"caddy_sandbox_instances", "Number of instances, by the status of their containers.", []string{"status"}, nil)

// The spares of pools are no instances.
var (
	poolWantedDesc = prometheus.NewDesc(
		"caddy_sandbox_pool_wanted", "Number of containers that the pool of a template is to keep ready.", []string{"template"}, nil)
	poolReadyDesc = prometheus.NewDesc(
		"caddy_sandbox_pool_ready", "Number of containers that are ready in the pool of a template.", []string{"template"}, nil)
)

var wakesDesc = prometheus.NewDesc(
	"caddy_sandbox_wakes_total", "Number of starts for visitors, by how they went: started, failed, or refused for there were too many.",
	[]string{"outcome"}, nil)

// instanceMetrics tells how many instances there are. Every configuration has
// a registry of its own; the numbers come from the one in force.
type instanceMetrics struct{}

// Describe implements prometheus.Collector.
func (instanceMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{instancesDesc, poolWantedDesc, poolReadyDesc, wakesDesc} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (instanceMetrics) Collect(metrics chan<- prometheus.Metric) {
	app := inForce.top()
	if app == nil {
		return
	}
	for _, status := range instance.Statuses {
		page, err := app.manager().List(instance.Query{Status: status, Limit: 1})
		if err != nil {
			metrics <- prometheus.NewInvalidMetric(instancesDesc, err)
			return
		}
		metrics <- prometheus.MustNewConstMetric(instancesDesc, prometheus.GaugeValue, float64(page.Total), string(status))
	}
	wakes := app.manager().WakeCounts()
	for outcome, n := range map[string]uint64{"started": wakes.Started, "failed": wakes.Failed, "refused": wakes.Refused} {
		metrics <- prometheus.MustNewConstMetric(wakesDesc, prometheus.CounterValue, float64(n), outcome)
	}
	for template, pool := range app.manager().Pools() {
		metrics <- prometheus.MustNewConstMetric(poolWantedDesc, prometheus.GaugeValue, float64(pool.Wanted), template)
		metrics <- prometheus.MustNewConstMetric(poolReadyDesc, prometheus.GaugeValue, float64(pool.Ready), template)
	}
}
