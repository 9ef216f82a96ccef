package visit

import "strings"

// robot is a part of the name that machines go by, in lower case.
type robot struct {
	part   string
	whole  bool   // no letter follows
	unless string // what comes before it in names of people's
}

// robots are those that give themselves out for what they are. HeadlessChrome is
// not among them: agents look at their work with it. A browser's word that a
// person navigates (Sec-Fetch-User) is none against a name: browsers that
// programs steer, as monitors have them, give it as well.
var robots = []robot{
	{part: "bot", whole: true, unless: "cu"}, {part: "bots", whole: true}, // Cubot makes phones
	{part: "scan", unless: "cam"}, // CamScanner has a browser
	{part: "crawl"}, {part: "spider"}, {part: "slurp"}, {part: "scrap"}, {part: "archiv"}, {part: "fetcher"},
	{part: "preview"}, {part: "unfurl"}, {part: "embedly"}, {part: "iframely"}, {part: "facebookexternalhit"}, {part: "meta-external"},
	{part: "vkshare"}, {part: "quora link"}, {part: "outbrain"}, {part: "google-"}, {part: "-google"}, {part: "googleother"}, {part: "googleimageproxy"},
	{part: "monitor"}, {part: "pingdom"}, {part: "uptime"}, {part: "statuscake"}, {part: "site24x7"}, {part: "newrelic"}, {part: "datadog"},
	{part: "checkly"}, {part: "kube-probe"}, {part: "healthcheck"}, {part: "health-check"}, {part: "health check"},
	{part: "googlehc"}, {part: "blackbox"}, {part: "envoy/hc"}, {part: "zabbix"}, {part: "nodeping"}, {part: "updown.io"}, {part: "lighthouse"},
	{part: "nmap"}, {part: "zgrab"}, {part: "nuclei"}, {part: "censys"},
}

// robotsBy are the robots by the first byte of their parts, in either case: this
// is asked of each request, and one look at each byte is cheaper than one for
// each name.
var robotsBy = func() (by [256][]robot) {
	for _, r := range robots {
		first := r.part[0]
		by[first] = append(by[first], r)
		by[first-'a'+'A'] = append(by[first-'a'+'A'], r)
	}
	return by
}()

func isRobot(agent string) bool {
	const longest = 1024 // a name that is longer is none
	if len(agent) > longest {
		return true
	}
	if strings.HasPrefix(agent, "WhatsApp/") { // which fetches what links lead to; its users' browsers are others
		return true
	}
	agent = withoutDevice(agent)
	for i := range len(agent) {
		for _, r := range robotsBy[agent[i]] {
			if r.isAt(agent, i) {
				return true
			}
		}
	}
	return false
}

func (r robot) isAt(agent string, i int) bool {
	end := i + len(r.part)
	if len(agent) < end || agent[i+1]|0x20 != r.part[1] || !strings.EqualFold(agent[i:end], r.part) || r.whole && end < len(agent) && isLetter(agent[end]) {
		return false
	}
	before := max(0, i-len(r.unless))
	return r.unless == "" || !strings.EqualFold(agent[before:i], r.unless)
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// withoutDevice leaves the device out of an Android browser's name: there are
// phones called M bot 51 and Spider 8.
func withoutDevice(agent string) string {
	device, ok := strings.CutPrefix(agent, "Mozilla/5.0 (Linux; ")
	if !ok {
		return agent
	}
	if _, rest, ok := strings.Cut(device, ")"); ok {
		return rest
	}
	return agent
}

// namesItsOwner reports whether an agent says where to read about it, as robots
// of whatever name do, and browsers do not.
func namesItsOwner(agent string) bool { return strings.Contains(agent, "://") }
