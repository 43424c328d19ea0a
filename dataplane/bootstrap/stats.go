package bootstrap

import (
	"slices"
	"strings"
)

// inboundPrefix begins the names of a sidecar's inbound listeners; the section of the Dataplane follows.
const inboundPrefix = "self_inbound_dp_"

// statsTags take what varies out of the names of statistics and makes tags of it: the tags that Kuma's
// dashboards use.
//
// Envoy tries a regex on every statistic that it creates, about 130 for each cluster, and std::regex is slow:
// one that does not match costs 10 to 30 µs, and `((.+?)\.)rbac\.`, which is quadratic, 300 µs. But a regex
// that begins with "^token\." is tried only on statistics whose name begins with that token. So each of these
// begins with one, even where the token is to be taken out as well: there the first alternative,
// `^token\.(?!)`, never matches, and the second does the work.
//
// A search that fails tries every position of the name, which for the 70 statistics of an outbound listener
// is most of what an Envoy with many services does at its start. Where most names do not match, the last
// alternative is therefore `^`, which always matches and captures nothing: the statistic gets the tag with an
// empty value, which to Prometheus is the same as no tag.
func (c Config) statsTags() []object {
	var out []object
	add := func(tag, regex string) {
		out = append(out, object{"tag_name": tag, "regex": regex})
	}

	add("name", `^grpc\.((.+)\.)`)
	add("status", `^grpc\..*streams_closed(_([0-9]+))`)
	add("kafka_name", `^kafka(?=\.)(\.(\S*[0-9]))\.`)
	add("kafka_type", `^kafka\..*\.(.*?(?=_duration|$))`)

	// Statistics of each worker thread have one of these places.
	add("worker", `^listener\.[^.]*\.(worker_([0-9]+)\.)|^`)
	for _, token := range []string{"listener_manager", "server", "thread_local_cluster_manager"} {
		add("worker", `^`+token+`\.(worker_([0-9]+)\.)`)
	}

	// The filter rbac of an HTTP inbound, and that of other inbounds, whose statistics begin with the
	// listener's name.
	add("listener", `^http\.(?!)|^((http\.`+inboundPrefix+`[^.]+)\.)rbac\.|^`)
	switch {
	case c.ProxyType != "dataplane":
	case c.Resource == "" || slices.ContainsFunc(c.Inbounds, notToken):
		add("listener", `^((`+inboundPrefix+`[^.]+)\.)rbac\.`)
	default:
		for _, section := range c.Inbounds {
			name := inboundPrefix + section
			add("listener", `^`+name+`\.(?!)|^((`+name+`)\.)rbac\.`)
		}
	}
	return out
}

// notToken says whether Envoy would not recognise s as the token that a regex begins with.
func notToken(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
}
