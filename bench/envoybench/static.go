package envoybench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/bench/controlplane"
)

// object is a message of Envoy as JSON. The static file is made on JSON, so that no type of Envoy
// has to be known.
type object = map[string]any

// staticFile writes a static configuration with the clusters and listeners that the Envoy at admin has now.
func staticFile(ctx context.Context, dir, admin string) (string, error) {
	data, err := controlplane.Get(ctx, "http://"+admin+"/config_dump?include_eds")
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(admin)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return "", err
	}
	resources, err := static(data)
	if err != nil {
		return "", fmt.Errorf("config dump: %w", err)
	}
	document, err := json.Marshal(object{
		"admin": object{"address": object{"socket_address": object{"address": host, "port_value": n}}},
		"default_regex_engine": object{
			"name": "envoy.regex_engines.google_re2",
			"typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.regex_engines.v3.GoogleRE2",
			},
		},
		"static_resources": resources,
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "static.json")
	return path, os.WriteFile(path, document, 0o600)
}

// static turns a config dump into static resources: endpoints go into their clusters, routes into
// their listeners.
func static(dump []byte) (object, error) {
	var d struct {
		Configs []struct {
			Type string `json:"@type"`

			DynamicActiveClusters []struct {
				Cluster object `json:"cluster"`
			} `json:"dynamic_active_clusters"`
			DynamicListeners []struct {
				ActiveState struct {
					Listener object `json:"listener"`
				} `json:"active_state"`
			} `json:"dynamic_listeners"`
			DynamicRouteConfigs []struct {
				RouteConfig object `json:"route_config"`
			} `json:"dynamic_route_configs"`
			DynamicEndpointConfigs []struct {
				EndpointConfig object `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(dump, &d); err != nil {
		return nil, err
	}

	var clusters, listeners []any
	endpoints, routes := map[string]object{}, map[string]object{}
	for _, c := range d.Configs {
		for _, e := range c.DynamicEndpointConfigs {
			name, _ := e.EndpointConfig["cluster_name"].(string)
			endpoints[name] = e.EndpointConfig
		}
		for _, r := range c.DynamicRouteConfigs {
			name, _ := r.RouteConfig["name"].(string)
			routes[name] = r.RouteConfig
		}
	}
	for _, c := range d.Configs {
		for _, entry := range c.DynamicActiveClusters {
			cluster, err := staticCluster(entry.Cluster, endpoints)
			if err != nil {
				return nil, err
			}
			clusters = append(clusters, cluster)
		}
		for _, entry := range c.DynamicListeners {
			listener := entry.ActiveState.Listener
			delete(listener, "@type")
			if err := inlineRoutes(listener, routes); err != nil {
				return nil, err
			}
			listeners = append(listeners, listener)
		}
	}
	if len(clusters) == 0 || len(listeners) == 0 {
		return nil, errors.New("it has no dynamic clusters or listeners")
	}
	return object{"clusters": clusters, "listeners": listeners}, nil
}

func staticCluster(c object, endpoints map[string]object) (object, error) {
	delete(c, "@type")
	eds, ok := c["eds_cluster_config"].(object)
	if !ok {
		return c, nil
	}
	name, _ := eds["service_name"].(string)
	if name == "" {
		name, _ = c["name"].(string)
	}
	assignment, ok := endpoints[name]
	if !ok {
		return nil, fmt.Errorf("no endpoints of cluster %s", name)
	}
	delete(assignment, "@type")
	// A dump writes the weight of a locality that has none as 0, which a file may not have.
	localities, _ := assignment["endpoints"].([]any)
	for _, l := range localities {
		locality, _ := l.(object)
		if w, _ := locality["load_balancing_weight"].(float64); w == 0 {
			delete(locality, "load_balancing_weight")
		}
	}
	delete(c, "eds_cluster_config")
	c["type"] = "STATIC"
	c["load_assignment"] = assignment
	return c, nil
}

// inlineRoutes replaces every "rds" below v by the routes it names.
func inlineRoutes(v any, routes map[string]object) error {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if err := inlineRoutes(item, routes); err != nil {
				return err
			}
		}
	case object:
		if rds, ok := v["rds"].(object); ok {
			name, _ := rds["route_config_name"].(string)
			route, ok := routes[name]
			if !ok {
				return fmt.Errorf("no routes %s", strings.TrimSpace(name))
			}
			delete(route, "@type")
			delete(v, "rds")
			v["route_config"] = route
			return nil
		}
		for _, item := range v {
			if err := inlineRoutes(item, routes); err != nil {
				return err
			}
		}
	}
	return nil
}
