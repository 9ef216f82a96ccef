package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// By status alone: a label for the prefix would grow without bound.
var instancesDesc = prometheus.NewDesc(
	"caddy_sandbox_instances", "Number of instances, by the status of their containers.", []string{"status"}, nil)

// instanceMetrics tells how many instances there are. Every configuration has
// a registry of its own; the numbers come from the one in force.
type instanceMetrics struct{}

// Describe implements prometheus.Collector.
func (instanceMetrics) Describe(descs chan<- *prometheus.Desc) { descs <- instancesDesc }

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
}
